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
FAULTY_VERB = """
import clustermesh_cli.commands.status as verb
def boom(*_, **__): raise RuntimeError("two\\nlines")
verb.status = boom
from clustermesh_cli.start import main
main()
"""
KUBECONFIG = """
current-context: b
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: c, user: u}}]
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


@pytest.mark.parametrize(("program", "words"), [(FAULTY, []), (FAULTY_VERB, ["status"])])
def test_a_fault_of_the_command_is_one_line_and_shows_where_when_asked(
    tmp_path: Path, program: str, words: list[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(KUBECONFIG)
    done = run(*words, program=program, env={"KUBECONFIG": str(config)})
    assert done.returncode == 1
    assert done.stderr == (
        "Error: a fault of the command itself: RuntimeError: two lines; CLUSTERMESH_TRACEBACK=1 shows where\n"
    )
    switched = {"CLUSTERMESH_TRACEBACK": "1", "KUBECONFIG": str(config)}
    assert "Traceback" in run(*words, program=program, env=switched).stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_standard_stream_stays_closed_and_nothing_else_changes(tmp_path: Path, closed: str) -> None:
    config = tmp_path / "config"
    config.write_text(KUBECONFIG)
    words = f'"{sys.executable}" -c "{START}" status --kubeconfig {config} {closed}'
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    said = "" if "2>&-" in closed else "Error: GET http://127.0.0.1:1/api/v1/"
    assert done.stderr[: len(said) or None] == said


def test_a_terminal_that_cannot_write_the_marks_gets_words(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(KUBECONFIG)
    program = f"{sys.executable} -c '{START}' connect --destination-context a --context b --kubeconfig {config}"
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        ["script", "-qec", program, os.devnull], env=latin, capture_output=True, timeout=60, check=False
    )
    assert b"Traceback" not in done.stdout
    assert done.stdout.startswith(b"STEP Reading cluster b...")


def test_an_error_does_not_command_the_terminal() -> None:
    assert run("get", "\x1b[31mred").stderr.startswith("Error: \\u001b[31mred: choose one of")


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
