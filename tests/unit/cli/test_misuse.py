# SPDX-License-Identifier: Apache-2.0
"""Every command and flag used wrongly: one line, the exit code of wrong use, and docs/cli.md says the same.

`CLI_UPDATE=1` writes what came out into docs/cli.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from clustermesh_cli.app import app, run_app
from clustermesh_cli.exit_code import ExitCode

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
INTRODUCTION = """# The command, and how it answers wrong use

Written by `CLI_UPDATE=1 pytest tests/unit/cli/test_misuse.py`, which compares. Every answer is one line on standard error. What
exit codes mean is in docs/status.md. `clustermesh lab`, the agent and the apiserver are in
[programs.md](programs.md).
"""
SPECIFIC = (
    ("status -o xml", 2),
    ("status --summary -o xml", 2),
    ("status --summary --wait", 2),
    ("status --wait-duration soon", 2),
    ("status --wait-duration -1", 2),
    ("status --context nope", 2),
    ("status --context=", 2),
    ("check --destination-context kind-north", 6),
    ("check --destination-context nope", 2),
    ("check --destination-context kind-south --connection-mode ring", 2),
    ("check --destination-context kind-south --destination-endpoint 192.0.2.9:99999", 6),
    ("check --matrix --source-endpoint 192.0.2.9:1", 2),
    ("check -o xml", 2),
    ("check -o JSON", 2),
    ("config view -o xml", 2),
    ("events --kind weather", 2),
    ("events --since yesterday", 2),
    ("events --limit many", 2),
    ("events -o xml", 2),
    ("observe --pod a --from-pod b", 2),
    ("observe --verdict LOST", 2),
    ("observe --verdict DROPPED --not", 2),
    ("observe --first 1 --last 1", 2),
    ("observe --last many", 2),
    ("observe --since yesterday", 2),
    ("observe --http-path (", 2),
    ("observe --follow -o table", 2),
    ("observe agent-events", 2),
    ("observe --server ftp://relay", 2),
    ("flows status --server ftp://relay", 2),
    ("flows status --tls-ca-cert-files /nowhere", 2),
    ("get everything", 2),
    ("get nodes -o xml", 2),
    ("connect --destination-context kind-north", 6),
    ("connect --destination-context nope", 2),
    ("connect --destination-context=", 2),
    ("connect --destination-context kind-south,", 2),
    ("connect --destination-context kind-south --connection-mode ring", 2),
    ("connect --destination-context kind-south --destination-endpoint 192.0.2.9:99999", 6),
    ("connect --destination-context kind-south --destination-endpoint 192.0.2.9", 6),
    ("connect --destination-context kind-south --destination-endpoint kind-west=192.0.2.9:1", 6),
    ("connect --destination-context kind-south --peer-networks 10.0.0.0/33", 2),
    ("connect --destination-context kind-south --peer-networks kind-west=auto", 6),
    ("disconnect", 2),
    ("disconnect south --destination-context kind-south", 2),
    ("disconnect --destination-context kind-north", 6),
    ("enable --cluster-id one", 2),
    ("enable --node-port http", 2),
)


def leaves(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that lead to it."""
    command = command or typer.main.get_command(app)
    for name, inner in sorted((getattr(command, "commands", None) or {}).items()):
        if getattr(inner, "commands", None):
            yield from leaves(inner, (*path, name))
        elif name != "lab":
            yield (*path, name), inner


def misuses(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, int]]:
    """Every flag without its value, or with one that it does not take; and a flag that there is not."""
    words = " ".join(path)
    yield f"{words} --no-such-flag", ExitCode.USAGE
    for parameter in command.params:
        flag = next((opt for opt in parameter.opts if opt.startswith("--")), None)
        if flag is not None and parameter.name != "help":
            yield f"{words} {flag}{'=x' if parameter.is_flag else ''}", ExitCode.USAGE


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("kind-north", "kind-south")
    path = tmp_path / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": names[0],
        "clusters": [{"name": n, "cluster": {"server": "https://127.0.0.1:1"}} for n in names],
        "users": [{"name": n, "user": {}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
    }
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(path))


def answer(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["clustermesh", *words.split()])
    code = run_app()
    said = capsys.readouterr()
    assert said.out == "", words
    return code, said.err.rstrip("\n")


def test_wrong_use_is_one_line_and_documented(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = [INTRODUCTION]
    for path, command in leaves():
        words = " ".join(path)
        specific = [pair for pair in SPECIFIC if pair[0].split()[: len(path)] == list(path)]
        rows = [*misuses(path, command), *specific]
        sections.append(
            f"## {words}\n\n{command.help.splitlines()[0]}\n\n| misuse | answer | exit code |\n|---|---|---|"
        )
        for misuse, expected in rows:
            code, line = answer(misuse, monkeypatch, capsys)
            assert (code, line.count("\n")) == (expected, 0), (misuse, line)
            assert line.startswith("Error: "), (misuse, line)
            text = line.removeprefix("Error: ").replace("|", "\\|")
            sections[-1] += f"\n| `{misuse}` | {text} | {int(code)} |"
        sections[-1] += "\n"
    text = "\n".join(sections)
    if os.environ.get("CLI_UPDATE"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text


def test_a_verb_that_there_is_not_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = answer("nothing", monkeypatch, capsys)
    assert (code, line) == (ExitCode.USAGE, "Error: No such command 'nothing'. See clustermesh --help.")
