# SPDX-License-Identifier: Apache-2.0
"""Scenarios need root and a lab of their own, which is removed whatever happens.

`make e2e` runs them in two workers, each with its own lab; the scenarios of a file share one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from e2e.mesh import Mesh, bring_up, tear_down
from tests.support.labs import lab_name, remove_abandoned
from tests.support.side_by_side import BySharedFixtures

ATTACKS = pytest.StashKey[list[tuple[str, str, str, str]]]()
LONGEST_FIRST = ("test_walkthrough", "test_three_clusters", "test_idle_connections", "test_certificates", "test_trust")
"""Files that a worker begins with, so that none of them is what the run waits for at its end."""
HEADER = ("ATTACKER", "ATTACK", "REFUSED BY", "WHAT THE VICTIM NOTICED")
LIMIT_S = 400
"""For one scenario, and for bringing up the lab before the first."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return BySharedFixtures(config, log)


def _turn(file: str) -> int:
    return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.path.stem))
    for item in items:
        item.add_marker(pytest.mark.lab)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="a lab needs root"))


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """One connected lab for all scenarios of a worker; every scenario leaves it as it found it."""
    remove_abandoned()
    name = lab_name("e2e")
    try:
        yield bring_up(name)
    finally:
        tear_down(name)


@pytest.fixture
def whole(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh, which answers from both clusters again after the scenario, as it did after the one before."""
    yield mesh
    mesh.expect_whole()


@pytest.fixture
def attacks(request: pytest.FixtureRequest) -> list[tuple[str, str, str, str]]:
    """Rows of the table that ends the run: attacker, attack, refused by what, what the victim noticed."""
    return request.config.stash.setdefault(ATTACKS, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    # a worker hands its rows to the process that prints the table
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["attacks"] = session.config.stash.get(ATTACKS, [])


def pytest_testnodedown(node: Any) -> None:
    rows = [tuple(row) for row in getattr(node, "workeroutput", {}).get("attacks", [])]
    node.config.stash.setdefault(ATTACKS, []).extend(rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ATTACKS, [])
    if not rows:
        return
    widths = [max(len(row[n]) for row in (HEADER, *rows)) for n in range(len(HEADER))]
    terminalreporter.section("attacks")
    for row in (HEADER, *rows):
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
