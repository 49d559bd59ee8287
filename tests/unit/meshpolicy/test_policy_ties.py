# SPDX-License-Identifier: Apache-2.0
"""Which rule is named when several give the same verdict: `explain` and flow records promise the same one every time."""

from __future__ import annotations

import pytest

from meshpolicy import Direction, EntryKey, PolicyEntry, PolicyKind, PolicyRef, RuleOrigin, lookup
from meshpolicy.mapstate import compile_group, decide, precedence
from meshpolicy.port import EVERYTHING, L4Key
from meshpolicy.tier import Level

TCP_ALL, TCP_80, TCP_64 = L4Key(6, 0, 0), L4Key(6, 80, 16), L4Key(6, 64, 10)
PEER = 300


def entry(name: str, *, deny: bool = False, level: Level = Level.NORMAL) -> PolicyEntry:
    origin = RuleOrigin(PolicyRef(PolicyKind.CILIUM, "default", name), "ingress[0]")
    return PolicyEntry(deny, precedence(level, deny=deny), 0, origin)


ONE, TWO, DENY = entry("one"), entry("two"), entry("deny", deny=True)


@pytest.mark.parametrize(
    ("named", "anyone", "winner"),
    [
        pytest.param((TCP_80, ONE), (TCP_80, TWO), ONE, id="equal keys: the one that names the peer"),
        pytest.param((EVERYTHING, ONE), (EVERYTHING, TWO), ONE, id="both everything: the one that names the peer"),
        pytest.param((TCP_ALL, ONE), (TCP_80, TWO), TWO, id="equal precedence: the longer port part"),
        pytest.param((EVERYTHING, ONE), (TCP_ALL, TWO), TWO, id="a protocol is longer than none"),
        pytest.param((TCP_64, ONE), (TCP_ALL, TWO), ONE, id="a range is longer than every port"),
        pytest.param((TCP_80, ONE), (EVERYTHING, DENY), DENY, id="deny before any length"),
        pytest.param((EVERYTHING, DENY), (TCP_80, ONE), DENY, id="deny of the peer before any length"),
        pytest.param(None, (EVERYTHING, ONE), ONE, id="only one for everyone"),
        pytest.param((EVERYTHING, ONE), None, ONE, id="only one for the peer"),
    ],
)
def test_of_two_hits_the_stronger_then_the_longer_then_the_one_for_the_peer_decides(
    named: tuple[L4Key, PolicyEntry] | None, anyone: tuple[L4Key, PolicyEntry] | None, winner: PolicyEntry
) -> None:
    verdict = decide(Direction.INGRESS, PEER, named, anyone)
    assert verdict.entry == winner
    assert verdict.allowed is not winner.deny
    expected = PEER if named is not None and named[1] == winner else 0
    assert verdict.key is not None
    assert verdict.key.identity == expected


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_narrow_rule_is_named_beside_a_broad_one_of_the_same_strength(protocol: int) -> None:
    group = compile_group([((EVERYTHING,), TWO), ((TCP_80,), ONE), ((L4Key(17, 1, 16),), DENY)])
    entries = {EntryKey(Direction.INGRESS, PEER, *key): value for key, value in group.items()}
    found = lookup(entries, Direction.INGRESS, PEER, protocol, 80)
    assert found.entry == (ONE if protocol == 6 else TWO)


def test_a_narrow_rule_is_dropped_behind_a_broad_one_that_is_stronger() -> None:
    group = compile_group([((TCP_ALL,), DENY), ((TCP_80,), ONE)])
    assert dict(group) == {TCP_ALL: DENY}


def test_of_equal_keys_the_first_rule_by_name_is_named_in_any_order() -> None:
    for parts in ([((TCP_80,), ONE), ((TCP_80,), TWO)], [((TCP_80,), TWO), ((TCP_80,), ONE)]):
        assert dict(compile_group(parts)) == {TCP_80: ONE}
