# SPDX-License-Identifier: Apache-2.0
"""Each block of commands in the documents names what runs such commands, or says why nothing does; its commands exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.unit.architecture.test_named_commands import problem

ROOT: Final = Path(__file__).parents[3]
GENERATED: Final = {"cli.md", "programs.md"}
FENCE: Final = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<body>.*?)\n```$", re.MULTILINE | re.DOTALL)
SHOWN: Final = re.compile(r"<!-- shown by (?P<paths>[^>]+) -->")
WHY_NOT: Final = re.compile(r"<!-- not run: \S[^>]{9,} -->")
PROGRAM: Final = re.compile(r"(clustermesh(-\w+)?|kubectl|helm|make|pip|export) ")
HUBBLES: Final = "clustermesh observe "
"""Its flags are Hubble's, which the command's own parser does not know."""


class Block(NamedTuple):
    place: str
    before: str
    body: str


def blocks(name: str, text: str) -> Iterator[Block]:
    """Those with a line that a shell would run."""
    for found in FENCE.finditer(text):
        if found["language"] == "sh" or any(PROGRAM.match(line) for line in found["body"].splitlines()):
            yield Block(f"{name}:{text.count(chr(10), 0, found.start()) + 2}", found["before"], found["body"])


def complaints(block: Block) -> list[str]:
    if WHY_NOT.fullmatch(block.before):
        found = []
    elif shown := SHOWN.fullmatch(block.before):
        found = [f"{path} is not there" for path in shown["paths"].split(", ") if not (ROOT / path).exists()]
    else:
        found = ["write <!-- shown by PATH, PATH --> or <!-- not run: WHY --> above it"]
    joined = re.sub(r"\\\n\s*", "", block.body)
    commands = [" ".join(re.sub(r"\s+[#>].*", "", line).split()) for line in joined.splitlines()]
    ours = [command for command in commands if command.startswith("clustermesh ") and not command.startswith(HUBBLES)]
    found += [said for command in ours if (said := problem(command))]
    return [f"{block.place}: {said}" for said in found]


DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in GENERATED),
]


def test_every_block_of_commands_is_shown_by_something_or_says_why_not() -> None:
    found = [block for path in DOCUMENTS for block in blocks(str(path.relative_to(ROOT)), path.read_text())]
    assert len(found) >= 10
    assert [said for block in found for said in complaints(block)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Then:\n```\nkubectl get pods\n```\n", "write <!-- shown by"),
        ("<!-- not run: -->\n```\nkubectl get pods\n```\n", "write <!-- shown by"),
        ("<!-- shown by e2e/test_nothing.py -->\n```sh\nmake lab\n```\n", "e2e/test_nothing.py is not there"),
        ("<!-- shown by e2e -->\n```sh\nclustermesh enable --no-such-flag\n```\n", "--no-such-flag"),
        ("<!-- shown by e2e -->\n```sh\nclustermesh enable \\\n  --no-such-flag\n```\n", "--no-such-flag"),
    ],
)
def test_a_block_that_nothing_shows_is_found(text: str, said: str) -> None:
    (block,) = blocks("x.md", text)
    assert said in "; ".join(complaints(block))
