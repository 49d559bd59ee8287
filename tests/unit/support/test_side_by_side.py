# SPDX-License-Identifier: Apache-2.0
"""A folder whose fixtures are made once for a session is one worker's: in two, or in turns, they would be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.side_by_side import SHARING, scope_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/integration/lab/test_a.py::test_b", "tests/integration/lab/"),
        ("tests/integration/devkube/test_a.py::test_b[1.20]", "tests/integration/devkube/"),
        ("tests/unit/lab/test_a.py::test_b", "tests/unit/lab/test_a.py"),
        ("e2e/test_a.py::test_b[x::y]", "e2e/test_a.py"),
    ],
)
def test_what_shares_fixtures_is_handed_out_together(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid) == scope


def test_every_folder_with_fixtures_of_a_session_is_one_workers() -> None:
    found = {
        f"{conftest.parent.relative_to(ROOT)}/"
        for conftest in (ROOT / "tests").glob("*/**/conftest.py")
        if 'scope="session"' in conftest.read_text()
    }
    assert found == set(SHARING)
