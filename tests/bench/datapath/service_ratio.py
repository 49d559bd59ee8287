# SPDX-License-Identifier: Apache-2.0
"""What service translation costs: a remote service against the same pod's address over the same VXLAN, in one run.

Rounds alternate between the two, so that noise of the machine meets both; the figure is the ratio of medians.
Client and server share one CPU: this measures work per operation, not the wire.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.datapath import layout
from agent.datapath.config import AttachMode
from meshmodel import protocol
from tests.integration.datapath.datapath_topology import Pod, Topology, topology
from tests.packet.datapath_host import bpffs, build_objects, run

VIP, LOCAL_VIP, LOAD_PORT = "172.20.1.7", "172.20.1.8", 9000
_CPU = str((os.cpu_count() or 1) - 1)


def measure(rounds: int = 7, seconds: float = 0.5) -> dict[str, Any]:
    """Medians of remote pod, remote service, local pod and local service, and the ratios service to pod."""
    build_objects()
    with tempfile.TemporaryDirectory() as work:
        tool = Path(work) / "load"
        run("cc", "-O2", "-o", str(tool), str(Path(__file__).with_name("load.c")))
        pins = Path(work) / "bpf"
        with bpffs(pins) as mounted, topology(f"dpt-bench-{os.getpid()}", mounted, AttachMode.AUTO) as made:
            return _measure(made, tool, rounds, seconds)


def _measure(made: Topology, tool: Path, rounds: int, seconds: float) -> dict[str, Any]:
    client, local, remote = made.pods()[0], made.pods()[1], made.pods()[4]
    lead_service(made, VIP, remote, 1)
    lead_service(made, LOCAL_VIP, local, 2)
    targets = {
        "remote": (remote.address, LOAD_PORT, VIP, 80),
        "local": (local.address, LOAD_PORT, LOCAL_VIP, 80),
    }
    figures: dict[str, Any] = {}
    with served(tool, local), served(tool, remote):
        for name, (address, port, vip, vip_port) in targets.items():
            for kind, unit in (("connect", "rate"), ("exchange", "p50_us")):
                pairs = [
                    (
                        load(tool, client, kind, address, port, seconds)[unit],
                        load(tool, client, kind, vip, vip_port, seconds)[unit],
                    )
                    for _ in range(rounds)
                ]
                pod, service = (statistics.median(column) for column in zip(*pairs, strict=True))
                label = f"{name}_{'connections_per_s' if kind == 'connect' else 'exchange_p50_us'}"
                figures[label] = {"pod": pod, "service": service, "ratio": round(service / pod, 4)}
    return figures


def lead_service(made: Topology, address: str, backend: Pod, number: int) -> None:
    """Port 80 of the address leads to the pod's LOAD_PORT on every node."""
    head = layout.ServiceKey(address, 80, protocol.TCP)
    for node in made.nodes:
        value = layout.BackendValue(backend.address, LOAD_PORT, protocol.TCP)
        node.maps.backends.update([(layout.BackendKey(number), value)])
        node.maps.members.update([(layout.MemberKey(number, number), layout.MemberValue())])
        slot = (head._replace(slot=1), layout.ServiceValue(number, number))
        node.maps.services.update([slot, (head, layout.ServiceValue(0, number, 1))])


@contextmanager
def served(tool: Path, pod: Pod) -> Iterator[None]:
    """The pod echoes on LOAD_PORT."""
    place = ["ip", "netns", "exec", pod.namespace, "taskset", "-c", _CPU]
    with subprocess.Popen([*place, str(tool), "server", str(LOAD_PORT)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def load(tool: Path, pod: Pod, kind: str, address: str, port: int, seconds: float) -> dict[str, float]:
    """What `load.c` prints of connections or exchanges of the pod with the address."""
    place = ["ip", "netns", "exec", pod.namespace, "taskset", "-c", _CPU]
    found: dict[str, float] = json.loads(run(*place, str(tool), kind, address, str(port), str(seconds)))
    return found


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=2)
    print()
