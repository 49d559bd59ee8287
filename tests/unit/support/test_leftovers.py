# SPDX-License-Identifier: Apache-2.0
"""A run that leaves something on the machine fails and names it; what killed runs left is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.labs import VARIABLE
from tests.support.leftovers import DIRECTORY, NETNS, OF_PROGRAMS

CONFTEST = """
from tests.support.leftovers import *
from tests.support.leftovers import pytest_configure, pytest_sessionfinish, pytest_terminal_summary, pytest_unconfigure
"""
ALONE = """
import tests.support.leftovers as looked_for
looked_for.other_runs = lambda _run: iter(())
"""
"""Another run, such as one that another worker's test starts, may own what stands in the directory of programs."""
HEAD = """
import os, subprocess, sys, tempfile
from pathlib import Path
from tests.support.leftovers import own_name
def test_it():
"""
NOTHING = "    Path(tempfile.mkdtemp()).rmdir()"
KINDS = {
    "file": "    tempfile.mkdtemp()",
    "process": "    subprocess.Popen(['sleep', '30'], start_new_session=True)",
}
AS_ROOT = {
    "namespace": "    subprocess.run(['ip', 'netns', 'add', own_name('left')], check=True)",
    "mount": "    where = tempfile.mkdtemp(); subprocess.run(['mount', '-t', 'tmpfs', own_name('m'), where], check=True)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    yield tmp_path
    for path in Path("/proc").glob("[0-9]*"):
        if _is_of(path, "sleep", tmp_path):
            os.kill(int(path.name), signal.SIGKILL)


def _is_of(process: Path, name: str, folder: Path) -> bool:
    try:
        return name in (process / "comm").read_text() and (process / "cwd").readlink() == folder
    except OSError:
        return False


def run(folder: Path, body: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A run of its own, in the folder, of one test with this body."""
    (folder / "test_it.py").write_text(HEAD + body)
    ours = {DIRECTORY, VARIABLE, "TMPDIR", "PYTEST_DEBUG_TEMPROOT", "PYTEST_XDIST_WORKER"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "."]
    root = str(Path(__file__).resolve().parents[3])
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_run_that_leaves_nothing_passes(folder: Path) -> None:
    done = run(folder, NOTHING)
    assert (done.returncode, "LEFT BEHIND" in done.stdout) == (0, False), done.stdout + done.stderr


def test_what_a_run_leaves_is_named_and_what_can_be_removed_is_by_the_next(folder: Path) -> None:
    """Also where a worker did it."""
    kinds = {**KINDS, **AS_ROOT} if os.geteuid() == 0 else KINDS
    socket = OF_PROGRAMS / f"left-{os.getpid()}"
    body = "\n".join(kinds.values())
    if os.geteuid() == 0:
        OF_PROGRAMS.mkdir(mode=0o700, exist_ok=True)
        body += f"\n    Path({str(socket)!r}).touch()"
        (folder / "conftest.py").write_text(CONFTEST + ALONE)
    try:
        done = run(folder, body, "-n", "1")
        assert (done.returncode, "1 passed" in done.stdout) == (1, True), done.stdout + done.stderr
        left = [line.split()[2:4] for line in done.stdout.splitlines() if line.startswith("LEFT BEHIND: ")]
        assert {kind for kind, _ in left} == kinds.keys()
        assert ["file", str(socket)] in left or os.geteuid() != 0
    finally:
        socket.unlink(missing_ok=True)
        (folder / "conftest.py").write_text(CONFTEST)
    assert run(folder, NOTHING).returncode == 0
    mounts = Path("/proc/self/mounts").read_text()
    for kind, what in left:
        assert kind == "process" or not Path(what).exists(), what
        assert not (NETNS / what).exists(), what
        assert f" {what} " not in mounts


def test_tests_write_temporary_files_into_the_directory_of_their_run() -> None:
    assert tempfile.gettempdir() == os.environ[DIRECTORY]
