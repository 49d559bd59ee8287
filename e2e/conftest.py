# SPDX-License-Identifier: Apache-2.0
"""Scenarios need root and a lab of their own, which is removed whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from e2e.mesh import Mesh, bring_up, tear_down
from tests.support.labs import lab_name, remove_abandoned

ATTACKS = pytest.StashKey[list[tuple[str, str, str, str]]]()
HEADER = ("ATTACKER", "ATTACK", "REFUSED BY", "WHAT THE VICTIM NOTICED")
LIMIT_S = 400
"""For one scenario, and for bringing up the lab before the first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # the walkthrough has a lab of its own: before the shared one is up, the machine is its alone
    items.sort(key=lambda item: "walkthrough" not in item.nodeid)
    for item in items:
        item.add_marker(pytest.mark.lab)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="a lab needs root"))


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """One connected lab for all scenarios; every scenario leaves it as it found it."""
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
