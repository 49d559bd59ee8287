# SPDX-License-Identifier: Apache-2.0
"""The affinity table, row by row (T20), compared with a second version that shares nothing with the first."""

from __future__ import annotations

import itertools

import pytest

from agent.loadbalancer.select import Candidate, select
from agent.loadbalancer.slots import arrange
from agent.tables import Backend
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition

ACTIVE = Backend("10.0.0.1", 80, "TCP")
KINDS = {
    "none": [],
    "active": [ACTIVE],
    "terminating": [ACTIVE._replace(condition=Condition.TERMINATING)],
    "unhealthy": [ACTIVE._replace(is_healthy=False)],
}
MODES = {"not-global": (False, Affinity.NONE), **{a.value: (True, a) for a in Affinity}}

# mode, local, remote -> what new connections use: L local, R remote, - nobody
EXPECTED = """
not-global   none         *            -
not-global   active       *            L
not-global   terminating  *            L
not-global   unhealthy    *            L
none         none         none         -
none         none         active       R
none         none         terminating  R
none         none         unhealthy    R
none         active       none         L
none         active       active       LR
none         active       terminating  L
none         active       unhealthy    L
none         terminating  none         L
none         terminating  active       R
none         terminating  terminating  LR
none         terminating  unhealthy    L
none         unhealthy    none         L
none         unhealthy    active       R
none         unhealthy    terminating  R
none         unhealthy    unhealthy    LR
local        none         none         -
local        none         active       R
local        none         terminating  R
local        none         unhealthy    -
local        active       none         L
local        active       active       L
local        active       terminating  L
local        active       unhealthy    L
local        terminating  none         L
local        terminating  active       R
local        terminating  terminating  LR
local        terminating  unhealthy    L
local        unhealthy    none         L
local        unhealthy    active       R
local        unhealthy    terminating  R
local        unhealthy    unhealthy    L
remote       none         none         -
remote       none         active       R
remote       none         terminating  R
remote       none         unhealthy    R
remote       active       none         L
remote       active       active       R
remote       active       terminating  R
remote       active       unhealthy    L
remote       terminating  none         L
remote       terminating  active       R
remote       terminating  terminating  R
remote       terminating  unhealthy    L
remote       unhealthy    none         -
remote       unhealthy    active       R
remote       unhealthy    terminating  R
remote       unhealthy    unhealthy    R
"""


def rows() -> list[tuple[str, str, str, str]]:
    found = []
    for line in EXPECTED.strip().splitlines():
        mode, local, remote, used = line.split()
        found += [(mode, local, r, used.strip("-")) for r in (KINDS if remote == "*" else [remote])]
    return found


@pytest.mark.parametrize(("mode", "local", "remote", "used"), rows())
def test_the_affinity_table(mode: str, local: str, remote: str, used: str) -> None:
    is_global, affinity = MODES[mode]
    candidates = [Candidate(b, "north", 1, True) for b in KINDS[local]]
    candidates += [Candidate(b, "south", 2, False) for b in KINDS[remote]]
    choice = select(is_global=is_global, affinity=affinity, candidates=candidates)
    assert "".join("L" if c.is_local else "R" for c in choice.chosen) == used
    assert choice.reason


def test_the_table_is_complete() -> None:
    assert {row[:3] for row in rows()} == set(itertools.product(MODES, KINDS, KINDS))


def test_terminating_backends_keep_their_entry_while_others_are_chosen() -> None:
    leaving = Backend("10.0.0.2", 80, "TCP", condition=Condition.TERMINATING)
    candidates = [Candidate(b, "north", 1, True) for b in (ACTIVE, leaving)]
    choice = select(is_global=False, affinity=Affinity.NONE, candidates=candidates)
    assert [c.backend for c in choice.chosen] == [ACTIVE]
    assert [c.backend for c in choice.draining] == [leaving]


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ("abc", "abc", "abc"),
        ("abc", "cba", "abc"),
        ("abc", "ac", "ac"),
        ("abcd", "abd", "abd"),
        ("abc", "abcd", "abcd"),
        ("abc", "axc", "axc"),
        ("aab", "abc", "acb"),
        ("ab", "aab", "aba"),
        ("aabb", "ab", "ab"),
        ("abab", "bbba", "abbb"),
        ("abc", "aac", "aac"),
        ("", "ab", "ab"),
        ("ab", "", ""),
    ],
)
def test_slots_that_need_not_change_do_not(old: str, new: str, result: str) -> None:
    assert "".join(arrange(list(old), list(new))) == result
