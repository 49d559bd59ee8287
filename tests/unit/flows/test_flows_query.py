# SPDX-License-Identifier: Apache-2.0
"""What a request takes out of the ring: the last, the first, since, until, from now on; and what was lost meanwhile."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.answer import answers
from flows.document import read_json
from flows.errors import FilterError, RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.query import Reading
from flows.ring import FlowEntry, Item, Lost, Ring
from flows.ring_capacity import check_capacity
from flows.selection import FlowSelection
from tests.support.effort import examples
from tests.support.flow_entries import S, decode


def entry(second: int, pod: str = "a", verdict: str = "FORWARDED", port: int = 80) -> FlowEntry:
    flow = pb.Flow(verdict=pb.Verdict.Value(verdict))
    flow.source.namespace, flow.source.pod_name = "default", pod
    flow.l4.TCP.destination_port = port
    return FlowEntry(second * S, pod, verdict, flow.SerializeToString())


def ring_of(*entries: Item, capacity: int = 7) -> Ring:
    ring = Ring(decode, capacity)
    ring.extend(entries)
    return ring


def request(**fields: Any) -> observer.GetFlowsRequest:
    for name in ("since", "until"):
        if name in fields:
            fields[name] = f"1970-01-01T00:00:{fields[name]:02d}Z"
    return read_json(orjson.dumps(fields), observer.GetFlowsRequest(), "request")


def drain(reading: Reading) -> list[str]:
    """Seconds of flows, and how many were lost."""
    found: list[str] = []
    while not reading.is_done and not (reading.follows and reading.waits):
        found += words(reading)
    return found


def words(reading: Reading) -> list[str]:
    found = [item for item, _ in reading.step()]
    return [f"lost {item.number}" if isinstance(item, Lost) else str(item.time_ns // S) for item in found]


def asked(ring: Ring, **fields: Any) -> list[str]:
    return drain(Reading(ring, request(**fields)))


NINE = [entry(n, "a" if n % 2 else "b", "DROPPED" if n % 3 == 0 else "FORWARDED", port=n) for n in range(1, 10)]


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, "3456789"),
        ({"number": 3}, "789"),
        ({"number": 2**64 - 1}, "3456789"),
        ({"number": 3, "first": True}, "345"),
        ({"first": True}, "3456789"),
        ({"since": 6}, "6789"),
        ({"since": 6, "number": 1}, "6789"),
        ({"until": 5}, "345"),
        ({"since": 4, "until": 6}, "456"),
        ({"number": 2, "until": 6}, "56"),
        ({"since": 20}, ""),
        ({"number": 2, "whitelist": [{"source_pod": ["a"]}]}, "79"),
        ({"number": 2, "first": True, "whitelist": [{"source_pod": ["a"]}]}, "35"),
        ({"number": 2, "blacklist": [{"source_pod": ["a"]}]}, "68"),
        ({"whitelist": [{"source_pod": ["a"]}], "blacklist": [{"verdict": ["DROPPED"]}]}, "57"),
        ({"whitelist": [{"destination_port": ["4"]}, {"verdict": ["DROPPED"], "source_pod": ["b"]}]}, "46"),
        ({"follow": True}, ""),
        ({"follow": True, "number": 2}, "89"),
        ({"follow": True, "since": 8}, "89"),
    ],
    ids=str,
)
def test_a_request_is_answered_in_the_order_of_the_ring(fields: dict[str, Any], seconds: str) -> None:
    assert asked(ring_of(*NINE), **fields) == list(seconds)


def test_who_follows_gets_what_comes_and_passes() -> None:
    ring = ring_of(*NINE)
    reading = Reading(ring, request(follow=True, whitelist=[{"source_pod": ["a"]}]))
    assert (drain(reading), reading.waits) == ([], True)
    ring.extend([entry(10, "b"), entry(11), entry(12)])
    assert (drain(reading), reading.is_done) == (["11", "12"], False)


def test_until_ends_also_what_follows() -> None:
    ring = ring_of()
    reading = Reading(ring, request(follow=True, until=5))
    ring.extend([entry(5), entry(6), entry(7)])
    assert (drain(reading), reading.is_done) == (["5"], True)


def test_a_slow_follower_is_told_what_it_missed_where_it_is_missing() -> None:
    ring = ring_of(entry(1))
    reading = Reading(ring, request(follow=True))
    ring.extend(entry(n) for n in range(2, 14))
    assert drain(reading) == ["lost 5", *map(str, range(7, 14))]


def test_a_request_that_ends_tells_what_it_missed_once_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.query.STEP", 1)
    ring = ring_of(*(entry(n) for n in range(1, 8)))
    reading, found = Reading(ring, request()), list[str]()
    while not reading.is_done:
        found += words(reading)
        ring.extend([entry(8), entry(9)])
    assert found == ["1", "3", "5", "7", "lost 3"]


def test_who_reads_up_to_the_oldest_entry_lost_nothing() -> None:
    ring = ring_of(*(entry(n) for n in range(1, 30)))
    assert asked(ring) == [str(n) for n in range(23, 30)]


def test_lost_events_pass_every_filter_and_are_not_counted() -> None:
    ring = ring_of(entry(1), entry(2), Lost(3 * S, pb.PERF_EVENT_RING_BUFFER, 9), entry(4, "b"))
    assert asked(ring, number=2, whitelist=[{"source_pod": ["a"]}]) == ["1", "2", "lost 9"]
    assert asked(ring, number=2, first=True) == ["1", "2"]
    assert asked(ring, whitelist=[{"source_pod": ["b"]}]) == ["lost 9", "4"]


def test_first_and_follow_contradict_each_other() -> None:
    with pytest.raises(RequestError, match="first and follow cannot be asked for together"):
        Reading(ring_of(), request(first=True, follow=True))
    with pytest.raises(FilterError, match="protocol"):
        Reading(ring_of(), request(whitelist=[{"protocol": ["x"]}]))


def test_an_answer_has_the_node_the_time_and_the_fields_that_were_asked_for() -> None:
    ring, wanted = ring_of(entry(3)), request(field_mask="source.podName,verdict")
    whole = answers(decode, "north/n1", request().field_mask)(ring.slice(0, 1)[0], 0)
    assert (whole.node_name, whole.time.seconds, whole.flow) == ("north/n1", 3, decode(entry(3), 0))
    (item,) = ring.slice(0, 1)
    part = answers(decode, "n1", wanted.field_mask)(item, 0).flow
    assert part == pb.Flow(verdict=pb.FORWARDED, source=pb.Endpoint(pod_name="a"))
    with pytest.raises(RequestError, match="a flow has no field sauce"):
        answers(decode, "n1", request(field_mask="verdict,sauce").field_mask)


def test_a_ring_is_one_less_than_a_power_of_two() -> None:
    assert [check_capacity(n) for n in (1, 4095, 65_535)] == [1, 4095, 65_535]
    for wrong in (0, 4096, 5000, 1 << 20, -1):
        with pytest.raises(RequestError, match="one less than a power of two"):
            check_capacity(wrong)


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(["a", "b", "lost"]), max_size=12), st.integers(1, 9), st.booleans())
def test_the_last_so_many_are_the_same_in_one_pass_or_in_two(kinds: list[str], number: int, is_filtered: bool) -> None:
    """Law: what is kept of a search is what a second look from its beginning finds."""
    ring = ring_of(
        *(Lost(n * S, 1, n) if kind == "lost" else entry(n, kind) for n, kind in enumerate(kinds)), capacity=15
    )
    fields: dict[str, Any] = {"number": number} | ({"whitelist": [{"source_pod": ["a"]}]} if is_filtered else {})
    once = asked(ring, **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.query.MOST_KEPT", 0)
        assert asked(ring, **fields) == once
    assert len([word for word in once if "lost" not in word]) == min(
        number, sum(k == "a" or (k == "b" and not is_filtered) for k in kinds)
    )


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["DROPPED", "FORWARDED"]), st.integers(1, 3)), max_size=20),
       st.lists(st.fixed_dictionaries({}, optional={
           "source_pod": st.just(["a"]), "verdict": st.just(["DROPPED"]), "destination_port": st.sampled_from([["1"], ["2"]]),
       }), max_size=3), st.integers(0, 3))  # fmt: skip
def test_what_is_remembered_of_sides_and_heads_changes_no_answer(
    rows: list[tuple[str, str, int]], filters: list[dict[str, Any]], split: int
) -> None:
    """Law: an entry is selected exactly if its decoded flow passes."""
    compiled = [read_json(orjson.dumps(each), pb.FlowFilter(), "filter") for each in filters]
    selection = FlowSelection(compiled[:split], compiled[split:])
    for number, (pod, verdict, port) in enumerate(rows):
        one = entry(number, pod, verdict, port)
        for known in (one, one._replace(head=None)):
            assert selection.selects(known, number, decode) == selection.passes(decode(one, number))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"number": 7}, ""),
        ({"number": 8}, "flows since 1970-01-01T00:00:03Z: older ones are not kept"),
        ({"number": 2**64 - 1}, "flows since 1970-01-01T00:00:03Z: older ones are not kept"),
        ({"since": 2}, "flows since 1970-01-01T00:00:03Z: older ones are not kept"),
        ({"since": 3}, ""),
        ({"number": 3, "first": True}, ""),
        (
            {"number": 5, "whitelist": [{"source_pod": ["b"]}]},
            "flows since 1970-01-01T00:00:03Z: older ones are not kept",
        ),
        (
            {"number": 5, "whitelist": [{"source_pod": ["c"]}]},
            "nothing on this node matches: it keeps 7 flows since 1970-01-01T00:00:03Z",
        ),
    ],
    ids=str,
)
def test_who_is_given_less_than_was_asked_for_is_told_which_time_it_covers(fields: dict[str, Any], said: str) -> None:
    reading = Reading(ring_of(*NINE), request(**fields))
    drain(reading)
    assert reading.shortfall() == said


def test_a_ring_that_lost_nothing_covers_all_there_was_and_an_empty_one_says_so() -> None:
    reading = Reading(ring_of(*NINE[:7]), request(number=100))
    assert (len(drain(reading)), reading.shortfall()) == (7, "")
    empty = Reading(ring_of(), request(number=100))
    assert (drain(empty), empty.shortfall()) == ([], "no flow was seen yet")
