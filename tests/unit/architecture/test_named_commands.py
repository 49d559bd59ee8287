# SPDX-License-Identifier: Apache-2.0
"""Every command that the documents or our own messages tell somebody to run exists, with the flags that they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer.main

from clustermesh_cli.app import app

ROOT: Final = Path(__file__).parents[3]
GENERATED: Final = {"cli.md", "programs.md"}
QUOTED: Final = re.compile(r"`(clustermesh [^`]+)`")
SAID: Final = re.compile(r"\bclustermesh ((?:[a-z]+ )*[a-z-]+(?: --[a-z-]+)*)")
FLAG: Final = re.compile(r"(?<=\s)--?[a-z][a-z-]*")


def told() -> Iterator[tuple[str, str]]:
    """Where, and the command."""
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        if path.name not in GENERATED:
            yield from ((path.name, " ".join(command.split())) for command in QUOTED.findall(path.read_text()))
    for folder in ("clustermesh_cli", "clustermesh_apiserver", "agent", "certs", "meshpeer", "meshapi"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "clustermesh " in node.value:
                    for words in SAID.findall(node.value):
                        if words.split()[0] in ROOT_VERBS:
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", f"clustermesh {words}"


TREE: Final[Any] = typer.main.get_command(app)
ROOT_VERBS: Final = set(TREE.commands)


def problem(command: str) -> str | None:
    """Why the command cannot be run; None if it can. Words after the verb are arguments, `a|b` are several verbs."""
    at: Any = TREE
    words = re.split(r"[\s|]+", command)[1:]
    while hasattr(at, "commands"):
        if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            return None if at is not TREE else f"{command}: names no verb"
        verb = words.pop(0)
        if verb not in at.commands:
            return f"{command}: no verb {verb}"
        at = at.commands[verb]
    if at.name == "lab":
        return None
    known = {name for option in at.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    unknown = sorted(set(FLAG.findall(command)) - known)
    return f"{command}: no option {', '.join(unknown)}" if unknown else None


def test_every_command_that_somebody_is_told_to_run_exists() -> None:
    found = list(told())
    assert len(found) > 60
    assert [f"{where}: {why}" for where, command in found if (why := problem(command))] == []


def test_what_does_not_exist_is_found() -> None:
    assert problem("clustermesh kv list") == "clustermesh kv list: no verb list"
    assert problem("clustermesh certs rotate --cy") == "clustermesh certs rotate --cy: no option --cy"
    assert problem("clustermesh kv ls | get | watch") is None
