# SPDX-License-Identifier: Apache-2.0
"""Requests that go on while something happens: every one on a connection of its own, each outcome counted."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from e2e.mesh import CLUSTERS, Cluster, Mesh, outcomes, wait_until

# one curl, new connections, a steady rate: a crowd of clients would take the processors from what is tested
LOOP: Final = """
echo $$ >/tmp/requests.pid
exec curl -sSN --max-time 2 --rate {rate}/s -H 'Connection: close' '{target}/?[1-100000]'
"""
STOP_LIMIT_S: Final = 10.0
FIRST: Final = 3
BOTH: Final = frozenset({"Koornacht", "Tion"})


@dataclass
class Requests:
    """A loop of requests from one x-wing pod."""

    mesh: Mesh
    cluster: Cluster
    pod: str
    output: Path
    process: subprocess.Popen[bytes]
    _stopped: bool = field(default=False)

    def so_far(self) -> Counter[str]:
        return outcomes(self.output.read_text(errors="replace"))

    def more(self, count: int, limit_s: float = 20.0) -> Counter[str]:
        """Outcomes so far, once there are so many more than now."""
        wanted = self.so_far().total() + count

        def enough() -> Counter[str]:
            found = self.so_far()
            assert found.total() >= wanted, found
            return found

        found: Counter[str] = wait_until(f"{count} more requests in {self.cluster}", enough, limit_s)
        return found

    def wait_for_both(self, limit_s: float = 20.0) -> None:
        """Both clusters have answered since."""
        now = self.so_far()
        what = f"{self.cluster} is still answered by both clusters"
        wait_until(what, lambda: set(self.so_far() - now) >= BOTH, limit_s)

    def stop(self) -> Counter[str]:
        """All outcomes; the request under way is not one."""
        if not self._stopped:
            self._stopped = True
            end = "kill $(cat /tmp/requests.pid)"
            self.mesh.kubectl(self.cluster, "exec", self.pod, "--", "/bin/sh", "-c", end, check=False)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_LIMIT_S)
            self.process.kill()
            self.process.wait()
        return self.so_far()


@contextmanager
def requests(
    mesh: Mesh, cluster: Cluster, *, target: str = "rebel-base", rate: int = 40, pod: str = ""
) -> Iterator[Requests]:
    """Requests go on, from their first answers to the end of the block."""
    pod = pod or mesh.pod(cluster, "x-wing")[0]
    script = LOOP.format(rate=rate, target=target)
    with TemporaryDirectory() as directory:
        output = Path(directory, "output")
        with output.open("wb") as file:
            command = ["kubectl", f"--kubeconfig={mesh.names.kubeconfig(cluster)}", "exec", pod, "--"]
            process = subprocess.Popen(
                [*command, "/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        loop = Requests(mesh, cluster, pod, output, process)
        try:
            loop.more(FIRST)
            yield loop
        finally:
            loop.stop()


@contextmanager
def traffic(mesh: Mesh, *, rate: int = 20) -> Iterator[tuple[Requests, Requests]]:
    """Requests go on in both clusters."""
    with requests(mesh, CLUSTERS[0], rate=rate) as first, requests(mesh, CLUSTERS[1], rate=rate) as second:
        yield first, second


@contextmanager
def no_loss(loops: Sequence[Requests]) -> Iterator[None]:
    """Every request of the block is answered, and at its end both clusters answer."""
    before = {loop.cluster: loop.so_far() for loop in loops}
    yield
    for loop in loops:
        loop.wait_for_both()
    for loop in loops:
        found = loop.so_far() - before[loop.cluster]
        assert set(found) == BOTH, f"{loop.cluster}: {found}"


@contextmanager
def undisturbed(mesh: Mesh, *, rate: int = 20) -> Iterator[None]:
    """During the block both clusters make requests, and every one is answered, from both clusters to the very end."""
    with traffic(mesh, rate=rate) as loops, no_loss(loops):
        yield
