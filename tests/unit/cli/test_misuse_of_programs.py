# SPDX-License-Identifier: Apache-2.0
"""Every verb and flag of the agent, the apiserver and the lab used wrongly: one line, code 2, and docs/programs.md says the same.

`CLI_UPDATE=1` writes what came out into docs/programs.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

import agent.app
import clustermesh_apiserver.app
import lab.app
import relay.app
from agent.cli import verbs
from agent.proxykeeper.settings import KeeperSettings
from agent.settings import AgentSettings
from clustermesh_apiserver.mirror import troubleshoot
from clustermesh_apiserver.settings import ApiserverSettings
from meshkit.settings import make_parser
from relay.settings import RelaySettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "programs.md"
INTRODUCTION = """# The programs, and how they answer wrong use

Written by `CLI_UPDATE=1 pytest tests/unit/cli/test_misuse_of_programs.py`, which compares. Every answer is one line on standard
error, with exit code 2, before anything is done. Of `clustermesh` the same is in [cli.md](cli.md).
"""


class Place(NamedTuple):
    """One command with flags: the words that lead to it, what it is for, and how it is used wrongly."""

    words: str
    purpose: str
    misuses: list[list[str]]


def of_parser(words: str, parser: argparse.ArgumentParser) -> Iterator[Place]:
    """A parser and those below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    misuses = [["--no-such-flag"]]
    for action in parser._actions:
        flag = next((option for option in action.option_strings if option.startswith("--")), None)
        if flag is None or flag == "--help":
            continue
        takes_none = action.nargs == 0
        misuses.append([f"{flag}=x"] if takes_none else [flag])
        if action.type in (int, float) or action.choices:
            misuses.append([f"{flag}=x"])
    for group in below:
        misuses += [[], ["no-such-verb"]]
        for name, inner in group.choices.items():
            yield from of_parser(f"{words} {name}", inner)
    required = [a.dest for a in parser._actions if not a.option_strings and a.nargs is None and not a.choices]
    yield Place(words, parser.description or "", [*misuses, *([[]] if required else [])])


def of_typer(words: str, command: Any) -> Iterator[Place]:
    """A command of typer and those below it."""
    for name, inner in sorted((getattr(command, "commands", None) or {}).items()):
        yield from of_typer(f"{words} {name}", inner)
    if not getattr(command, "commands", None):
        takes_anything = command.context_settings.get("ignore_unknown_options", False)
        misuses = [] if takes_anything else [["--no-such-flag"]]
        for parameter in command.params:
            flag = next((opt for opt in parameter.opts if opt.startswith("--")), None)
            if flag is not None and parameter.name != "help":
                misuses.append([f"{flag}=x" if parameter.is_flag else flag])
        if any(parameter.required for parameter in command.params):
            misuses.append([])
        yield Place(words, (command.help or "").splitlines()[0], misuses)


def places() -> list[tuple[Place, Callable[[Sequence[str]], object]]]:
    """Every command of every program, and what runs its words."""
    settings = of_parser("clustermesh-agent", make_parser(AgentSettings, program="clustermesh-agent"))
    keeping = of_parser("clustermesh-agent proxies", make_parser(KeeperSettings, program="clustermesh-agent proxies"))
    asking = of_parser("clustermesh-agent", verbs.make_parser())
    serving = of_parser("clustermesh-apiserver", make_parser(ApiserverSettings, program="clustermesh-apiserver"))
    relaying = of_parser("clustermesh-relay", make_parser(RelaySettings, program="clustermesh-relay"))
    trying = of_parser("clustermesh-apiserver troubleshoot", troubleshoot.make_parser())
    return [
        *((place, agent.app.main) for place in (*settings, *keeping)),
        *((place, verbs.main) for place in asking if place.words != "clustermesh-agent"),
        *((place, clustermesh_apiserver.app.main) for place in (*serving, *trying)),
        *((place, relay.app.main) for place in relaying),
        *((place, run_lab) for place in of_typer("clustermesh lab", typer.main.get_command(lab.app.app))),
    ]


def run_lab(words: Sequence[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lab", *words])
        patch.setattr("os.geteuid", lambda: 0)
        lab.app.main()


def test_wrong_use_is_one_line_and_documented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sections = [INTRODUCTION]
    for place, run in places():
        program = "clustermesh lab" if place.words.startswith("clustermesh lab") else place.words.split()[0]
        rows = ["| misuse | answer |", "|---|---|"]
        for misuse in place.misuses:
            words = [*place.words.removeprefix(program).split(), *misuse]
            with pytest.raises(SystemExit) as ended:
                run(words)
            said = capsys.readouterr()
            line = said.err.rstrip("\n")
            assert (ended.value.code, said.out, line.count("\n")) == (2, "", 0), (words, line)
            assert line.startswith("Error: "), (words, line)
            answer = line.removeprefix("Error: ").replace("|", "\\|")
            rows.append(f"| `{' '.join([place.words, *misuse])}` | {answer} |")
        purpose = [place.purpose, ""] if place.purpose else []
        sections.append("\n".join([f"## {place.words}", "", *purpose, *rows, ""]))
    text = "\n".join(sections)
    if os.environ.get("CLI_UPDATE"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text
