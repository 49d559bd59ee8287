# SPDX-License-Identifier: Apache-2.0
"""What a run of tests leaves on the machine: nothing, or the run fails and says what.

Whatever outlives a test that is killed says whose it is: namespaces and the sources of mounts are named by `own_name`, temporary
files are below one directory of the run, and processes have the run's number in their environment. So the end of a run looks for
its own only, and its beginning removes what killed runs have left. The functions called `pytest_*` are hooks of a conftest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.labs import VARIABLE, is_going_on, run_id

DIRECTORY: Final = "CLUSTERMESH_TEST_TMPDIR"
"""Set by the process that looks at the end: not by workers, and not by a pytest that a test starts."""
NAME: Final = re.compile(r"cmt(\d+)-.*")
NETNS: Final = Path("/run/netns")
OF_PROGRAMS: Final = Path("/run/clustermesh")
"""Where programs put their sockets unless told otherwise: no test may let them, since a node's own programs are there."""
ENDING_S: Final = 2.0
"""For processes that were told to end."""
LEFT: Final = pytest.StashKey[list[str]]()
MINE: Final = pytest.StashKey[float]()


def own_name(what: str) -> str:
    """A name for a namespace or a mount that says which run made it; no other process of the run makes the same."""
    return f"cmt{run_id()}-{what}-{os.getpid()}"


def remove_abandoned() -> None:
    """Namespaces, mounts and temporary files of runs that do not go on are gone."""
    for source, point in _mounts():
        if _is_abandoned(source):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    for name in filter(_is_abandoned, _namespaces()):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    for name in filter(_is_abandoned, _directories()):
        shutil.rmtree(Path(tempfile.gettempdir(), name), ignore_errors=True)


def leftovers(run: int, directory: Path, since_s: float) -> list[str]:
    """What there is of the run: in its directory, named by it, started by it, or put where programs have their sockets."""
    prefix = f"cmt{run}-"
    found = [f"namespace {name}" for name in _namespaces() if name.startswith(prefix)]
    found += [f"mount {point}" for source, point in _mounts() if source.startswith(prefix)]
    found += [f"file {path}" for path in (sorted(directory.iterdir()) if directory.is_dir() else ())]
    found += [f"file {path}" for path in _sockets(run) if path.lstat().st_ctime >= since_s]
    return found + [f"process {pid}: {words}" for pid, words in _processes(run)]


# ---- hooks


def pytest_configure(config: pytest.Config) -> None:
    if DIRECTORY in os.environ:
        return
    config.stash[MINE] = time.time()
    remove_abandoned()
    os.environ.setdefault(VARIABLE, str(run_id()))
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ[DIRECTORY] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix=own_name("tmp"))
    tempfile.tempdir = None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    since_s = session.config.stash.get(MINE, None)
    if since_s is None:
        return
    directory, end_s = Path(os.environ[DIRECTORY]), time.monotonic() + ENDING_S
    while any(_processes(run_id())) and time.monotonic() < end_s:
        time.sleep(0.1)
    left = leftovers(run_id(), directory, since_s)
    session.config.stash[LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND: {line}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if MINE not in config.stash:
        return
    shutil.rmtree(os.environ.pop(DIRECTORY), ignore_errors=True)
    os.environ.pop("TMPDIR", None)
    tempfile.tempdir = None


# ---- what is there


def _is_abandoned(name: str) -> bool:
    found = NAME.fullmatch(name)
    return found is not None and int(found[1]) != run_id() and not is_going_on(int(found[1]))


def _namespaces() -> list[str]:
    return sorted(path.name for path in NETNS.iterdir()) if NETNS.is_dir() else []


def _directories() -> list[str]:
    return sorted(path.name for path in Path(tempfile.gettempdir()).glob("cmt*-*"))


def _mounts() -> list[tuple[str, str]]:
    """Source and mount point of each, the latest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [(fields[0], fields[1]) for line in reversed(lines) if len(fields := line.split()) > 1]


def _sockets(run: int) -> list[Path]:
    """Those where programs have theirs; none where another run is going on, as they may be its."""
    if not OF_PROGRAMS.is_dir() or any(other_runs(run)):
        return []
    return sorted(OF_PROGRAMS.iterdir())


def other_runs(run: int) -> Iterator[int]:
    """Processes of runs of tests that are not this one, nor started it."""
    ours = {pid for pid, _ in _processes(run)} | set(_ancestors())
    others = {int(path.name) for path in Path("/proc").glob("[0-9]*")} - ours
    return (pid for pid in sorted(others) if is_going_on(pid))


def _processes(run: int) -> Iterator[tuple[int, str]]:
    """Those with the run's number in their environment, but for this one and those that it was started by."""
    mark, above = f"{VARIABLE}={run}".encode(), set(_ancestors())
    for path in Path("/proc").glob("[0-9]*"):
        if int(path.name) in above:
            continue
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if words:  # one that has ended and waits for its parent has none
                    yield int(path.name), words[:100]
        except OSError:
            continue


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(status.partition("\nPPid:")[2].split()[0])
