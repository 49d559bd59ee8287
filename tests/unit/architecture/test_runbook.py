# SPDX-License-Identifier: Apache-2.0
"""Each entry of docs/runbook.md has a test that makes its symptom, and each such test an entry."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
ENTRY: Final = re.compile(r"^\| ([a-z0-9]+(?:-[a-z0-9]+)*) \|(.*)\|$", re.MULTILINE)
MARK: Final = re.compile(r"^@pytest\.mark\.runbook\(\"([a-z0-9-]+)\"\)$", re.MULTILINE)
UNTRIED: Final[frozenset[str]] = frozenset()
"""Entries whose symptom no test makes yet; one that has a test does not stand here."""


def entries() -> list[tuple[str, list[str]]]:
    """The name of each entry, and what it says."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    found = [(m[1], [cell.strip() for cell in m[2].split("|")]) for m in ENTRY.finditer(text)]
    return [(name, cells) for name, cells in found if name != "entry"]


def marked() -> set[str]:
    """The entries that tests name."""
    paths = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "e2e").glob("test_*.py")]
    return {name for path in paths for name in MARK.findall(path.read_text())}


def test_each_entry_has_a_test_that_makes_its_symptom() -> None:
    names = [name for name, _ in entries()]
    assert len(names) > 30
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(names) - UNTRIED == marked()
    assert set(names) >= UNTRIED


def test_each_entry_says_what_is_seen_what_to_run_and_what_to_do() -> None:
    assert [name for name, cells in entries() if len(cells) != 3 or not all(cells)] == []
