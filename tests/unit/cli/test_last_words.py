# SPDX-License-Identifier: Apache-2.0
"""However the command ends, there is one line at most, no traceback and no temporary file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = "from clustermesh_cli.start import main; main()"
FAULTY = """
import clustermesh_cli.app as app
def boom(): raise RuntimeError("two\\nlines")
app.run_app = boom
from clustermesh_cli.start import main
main()
"""
HOLDING = """
import clustermesh_cli.app as app, sys, tempfile, threading
def hold():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("held", flush=True)
        threading.Event().wait(60)
    return 0
app.run_app = hold
from clustermesh_cli.start import main
main()
"""


def run(
    *words: str, program: str = START, stdout: int = subprocess.PIPE, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["connect", "-h"]])
def test_a_full_disk_is_one_line(words: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = run(*words, stdout=full)
    os.close(full)
    assert done.returncode == 1
    assert done.stderr == "Error: the answer cannot be written: No space left on device\n"


def test_a_closed_pipe_ends_the_command_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run("--help", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_of_the_command_is_one_line_and_shows_where_when_asked() -> None:
    done = run(program=FAULTY)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: a fault of the command itself: RuntimeError: two lines; CLUSTERMESH_TRACEBACK=1 shows where\n"
    )
    assert "Traceback" in run(program=FAULTY, env={"CLUSTERMESH_TRACEBACK": "1"}).stderr


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "Error: interrupted\n"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_leaves_no_temporary_file(tmp_path: Path, number: signal.Signals, code: int, said: str) -> None:
    words = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, said)
    assert list(tmp_path.iterdir()) == []


def test_without_a_verb_the_help_is_the_answer_line_by_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")
    assert len(done.stderr.splitlines()) > 10


@pytest.mark.parametrize("verb", ["status", "connect", "kv", "policy", "explain"])
def test_h_is_help(verb: str) -> None:
    assert run(verb, "-h").stdout == run(verb, "--help").stdout


def test_the_version_and_a_completion_script_are_printed() -> None:
    assert run("--version").stdout.startswith("clustermesh 0.")
    assert "complete" in run("--show-completion", "bash").stdout
