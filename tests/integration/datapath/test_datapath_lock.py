# SPDX-License-Identifier: Apache-2.0
"""A second agent on a node refuses to start and says who has it; the next one after a kill does not wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.lock import NodeLock, NodeTakenError
from tests.packet.datapath_host import bpffs

pytestmark = pytest.mark.root
HOLD = """
import sys
from pathlib import Path
from agent.datapath.lock import NodeLock
NodeLock(Path(sys.argv[1])).take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path / "bpf") as directory:
        yield directory / "node"


@pytest.mark.runbook("two-agents")
def test_a_second_process_is_refused_until_the_first_is_dead(pins: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(pins)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"taken\n"
        lock = NodeLock(pins)
        with pytest.raises(NodeTakenError, match=rf"{pins} is in use by process {first.pid}: two agents") as refused:
            lock.take()
        assert refused.value.owner == first.pid
        first.send_signal(signal.SIGKILL)
        first.wait()
        lock.take()
        lock.take()
        lock.release()


def test_another_directory_is_free(pins: Path) -> None:
    one, two = NodeLock(pins), NodeLock(pins.parent / "other")
    one.take()
    two.take()
    one.release()
    two.release()


def test_the_uninstall_verb_leaves_a_running_agent_alone(pins: Path) -> None:
    lock = NodeLock(pins)
    lock.take()
    command = [sys.executable, "-m", "agent.app", "uninstall", "--pin-directory", str(pins), "--log-format", "text"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr
    assert pins.is_dir()
    lock.release()


def test_a_directory_that_was_made_anew_is_taken_anew_unless_somebody_has_it(pins: Path) -> None:
    lock, other = NodeLock(pins), NodeLock(pins)
    lock.take()
    for is_free in (True, False):
        pins.rmdir()
        pins.mkdir()
        if is_free:
            lock.take()
        else:
            other.take()
            with pytest.raises(NodeTakenError):
                lock.take()
    other.release()
