# SPDX-License-Identifier: Apache-2.0
"""Only what people wrote is in the repository: no cache of a tool that was started in it."""

from __future__ import annotations

import subprocess

import pytest

from tests.unit.architecture.source_tree import REPOSITORY

HIDDEN = {".ci/run", ".dockerignore", ".gitignore"}


def test_no_hidden_file_is_tracked_but_those_of_the_repository_itself() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone: nothing says what is tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    names = [name for name in listed.split("\0") if name]
    assert len(names) > 500
    assert {name for name in names if any(part.startswith(".") for part in name.split("/"))} == HIDDEN
