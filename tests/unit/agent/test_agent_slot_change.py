# SPDX-License-Identifier: Apache-2.0
"""Few changes among many slots: the same slots as from the whole, and what is known of large sets."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.loadbalancer.known_targets import LARGE, MOST, KnownTargets
from agent.loadbalancer.port_index import PortIndexes
from agent.loadbalancer.slot_change import changed_targets, rearranged
from agent.loadbalancer.slots import FEW, arrange
from agent.tables import Backend, BackendSet, ServicePort, Target
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.support.effort import examples

PORT = ServicePort("http", 80, "TCP")


def target(number: int) -> Target:
    return Target(f"10.0.{number >> 8}.{number & 255}", 80, "TCP", 1)


def single(most: int) -> st.SearchStrategy[list[Target]]:
    return st.lists(st.integers(0, most), unique=True, max_size=most).map(lambda found: [target(n) for n in found])


@settings(max_examples=examples(300))
@given(old=single(FEW + 8), new=single(FEW + 8))
def test_slots_hold_the_new_ones_and_as_many_stay_as_can(old: list[Target], new: list[Target]) -> None:
    change = changed_targets(old, new)
    if not change.gained and not change.lost:
        return
    found = rearranged(list(old), new, change)
    assert sorted(found) == sorted(new)
    whole = arrange(list(old), new)
    stayed = [sum(a == b for a, b in zip(old, slots, strict=False)) for slots in (found, whole)]
    assert stayed[0] == stayed[1]


def backend_set(count: int, service: str = "s", names: tuple[str, ...] = ("http",)) -> BackendSet:
    backends = tuple(Backend(target(n).address, 80, "TCP", names) for n in range(count))
    return BackendSet(ServiceName("t", service), ClusterName("south"), ClusterId(1), backends)


def test_a_large_set_is_made_once_and_anew_for_another_row_or_port() -> None:
    known, row = KnownTargets(PortIndexes()), backend_set(LARGE)
    first = known.of(row, PORT, 1)
    assert list(first) == [target(n) for n in range(LARGE)]
    assert known.of(row, PORT, 1) is first
    assert known.of(row, ServicePort("other", 81, "TCP"), 1) == []
    assert len(known.of(backend_set(LARGE + 1), PORT, 1)) == LARGE + 1
    assert known.of(backend_set(3), PORT, 1) == [target(n) for n in range(3)]


@given(st.integers(0, LARGE), st.integers(0, 3), st.integers(0, 3))
def test_a_change_of_a_few_makes_the_targets_of_those_anew_and_no_others(at: int, lost: int, gained: int) -> None:
    known, row = KnownTargets(PortIndexes()), backend_set(LARGE + 4)
    first = known.of(row, PORT, 1)
    news = tuple(Backend(target(9000 + n).address, 80, "TCP", ("http",)) for n in range(gained))
    changed = replace(row, backends=(*row.backends[:at], *news, *row.backends[at + lost :]))
    found = known.of(changed, PORT, 1)
    assert found == KnownTargets(PortIndexes()).of(changed, PORT, 1)
    assert {id(t) for t in found if t in set(first)} <= {id(t) for t in first}


def test_a_change_to_backends_that_do_not_fit_leaves_them_out() -> None:
    known, row = KnownTargets(PortIndexes()), backend_set(LARGE)
    known.of(row, PORT, 1)
    odd = row.backends[1]._replace(names=("other",)), row.backends[2]._replace(protocol="UDP")
    for backends in ((row.backends[0], *odd, *row.backends[3:]), (*odd, *row.backends)):
        changed = replace(row, backends=backends)
        assert known.of(changed, PORT, 1) == KnownTargets(PortIndexes()).of(changed, PORT, 1)


def test_a_port_without_a_name_takes_backends_of_any_name_only_where_none_has_none() -> None:
    unnamed, known, row = ServicePort("", 80, "TCP"), KnownTargets(PortIndexes()), backend_set(LARGE)
    assert known.of(row, unnamed, 1) == known.of(row, PORT, 1)
    nameless = row.backends[3]._replace(names=("",))
    for backends in ((*row.backends[:3], nameless, *row.backends[4:]), row.backends):
        changed = replace(row, backends=backends)
        assert known.of(changed, unnamed, 1) == KnownTargets(PortIndexes()).of(changed, unnamed, 1)


def test_not_more_than_so_many_are_kept() -> None:
    known, first = KnownTargets(PortIndexes()), backend_set(LARGE)
    made = known.of(first, PORT, 1)
    for n in range(MOST):
        known.of(backend_set(LARGE, f"s{n}"), PORT, 1)
    again = known.of(first, PORT, 1)
    assert again == made
    assert again is not made
