# SPDX-License-Identifier: Apache-2.0
"""A connection table that evicts is named in the status, with what is lost."""

from __future__ import annotations

import pytest

from agent.reports import MAP_NAMES, crowded_tables
from meshapi.agent import MapStatus


def _row(name: str, entries: int) -> MapStatus:
    return MapStatus(name=name, entries=entries, maximum=1000, pending=0, failed=0)


@pytest.mark.parametrize("name", ["conntrack_opening", "conntrack_tcp", "conntrack_other"])
def test_a_connection_table_that_evicts_is_a_problem(name: str) -> None:
    assert not crowded_tables([_row(name, 799)])
    (problem,) = crowded_tables([_row(name, 800)])
    assert "(800 of 1000)" in problem
    assert name in MAP_NAMES


def test_a_flood_is_said_to_leave_established_connections_alone() -> None:
    assert "established ones are kept" in crowded_tables([_row("conntrack_opening", 900)])[0]


def test_other_maps_may_be_full_of_what_is_wanted() -> None:
    assert not crowded_tables([_row("services", 1000), _row("affinity", 1000)])
