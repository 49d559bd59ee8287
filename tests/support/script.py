# SPDX-License-Identifier: Apache-2.0
"""Runs *.txtar scripts: commands, one per line, then `-- name --` sections that commands name as input or expected output.

A kind of script is a subclass of `Script` with one method `do_<verb>` per verb. `SCRIPT_UPDATE=1` writes what came out into the
sections it was compared with; `SCRIPT_REPEAT=200` runs each script that often, which every new script passes once.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

HEADER: Final = re.compile(r"^-- (\S+) --\n", re.MULTILINE)
REPEAT: Final = int(os.environ.get("SCRIPT_REPEAT", "1"))
UPDATE: Final = bool(os.environ.get("SCRIPT_UPDATE"))


class ScriptError(Exception):
    """The script itself is wrong: an unknown verb, a section that is not there or that nothing uses."""


class Command(NamedTuple):
    line: int
    words: list[str]


class Archive(NamedTuple):
    """What a script file holds."""

    commands: list[Command]
    sections: dict[str, str]


def read_archive(text: str) -> Archive:
    """Commands without comments and empty lines, and sections by name. Raises: ScriptError for a name used twice."""
    head, *rest = HEADER.split(text)
    names = rest[::2]
    if len(set(names)) != len(names):
        raise ScriptError(f"two sections have the same name: {sorted({n for n in names if names.count(n) > 1})}")
    lines = [(number, shlex.split(line, comments=True)) for number, line in enumerate(head.splitlines(), 1)]
    return Archive([Command(n, words) for n, words in lines if words], dict(zip(names, rest[1::2], strict=True)))


def write_archive(text: str, sections: dict[str, str]) -> str:
    """The text with these sections' contents replaced."""
    head, *rest = HEADER.split(text)
    parts = [f"-- {name} --\n{sections.get(name, body)}" for name, body in zip(rest[::2], rest[1::2], strict=True)]
    return "".join((head, *parts))


def scripts_in(folder: Path) -> list[Path]:
    """Every script of a folder, in order."""
    return sorted(folder.glob("*.txtar"))


class Script:
    """One run of one script."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commands, self._sections = read_archive(path.read_text())
        self._used: set[str] = set()
        self._came_out: dict[str, str] = {}

    @classmethod
    def run_file(cls, path: Path) -> None:
        """Every command does what the script says, each time. Raises: AssertionError or ScriptError with file and line."""
        for _ in range(REPEAT):
            cls(path).run()

    def run(self) -> None:
        for number, words in self.commands:
            try:
                self.do(words)
            except (AssertionError, ScriptError) as exc:
                raise type(exc)(f"{self.path.name}:{number}: {shlex.join(words)}\n{exc}") from None
        unused = sorted(set(self._sections) - self._used)
        if unused:
            raise ScriptError(f"{self.path.name}: no command names {', '.join(unused)}")
        if UPDATE and self._came_out:
            self.path.write_text(write_archive(self.path.read_text(), self._came_out))

    def do(self, words: list[str]) -> None:
        """One command."""
        verb, *arguments = words
        method = getattr(self, "do_" + verb.replace("-", "_"), None)
        if method is None:
            known = sorted(name[3:].replace("_", "-") for name in dir(self) if name.startswith("do_"))
            raise ScriptError(f"no verb {verb}; there are: {', '.join(known)}")
        try:
            inspect.signature(method).bind(*arguments)
        except TypeError as exc:
            raise ScriptError(f"{verb}: {exc}") from None
        method(*arguments)

    def section(self, name: str) -> str:
        """The text of a section. Raises: ScriptError."""
        if name not in self._sections:
            raise ScriptError(f"no section {name}; there are: {', '.join(self._sections)}")
        self._used.add(name)
        return self._sections[name]

    def compare(self, name: str, found: str) -> None:
        """The section is what came out; white space around it does not count."""
        wanted = self.section(name).strip()
        if UPDATE and self._came_out.setdefault(name, found.strip() + "\n").strip() == found.strip():
            return
        assert found.strip() == wanted, f"--- want\n{wanted}\n--- got\n{found.strip()}"
