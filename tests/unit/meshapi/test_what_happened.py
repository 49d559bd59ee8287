# SPDX-License-Identifier: Apache-2.0
"""Two looks at a program, and the events that lie between them."""

from __future__ import annotations

import pytest

from meshapi.event import (
    EventKind,
    EventLevel,
    MeshEvent,
    MeshLook,
    event_time,
    in_order,
    parse_event_time,
    what_happened,
)
from meshapi.peer import PeerState, RemoteCluster

READY = RemoteCluster(name="tion", state=PeerState.READY, session_since=5.0, cert_not_after=100.0)
LOST = RemoteCluster(name="tion", state=PeerState.DISCONNECTED, reason="connection reset: what is known is kept")


def said(before: MeshLook, after: MeshLook) -> list[tuple[str, str, str, str]]:
    return [(h.kind.value, h.level.value, h.subject, h.message) for h in what_happened(before, after)]


def test_equal_looks_are_no_event() -> None:
    look = MeshLook({"tion": READY}, {"store": ("ok", "")}, {"192.0.2.1": ("tion", "x")}, {"CNP a/b": "refused: x"})
    assert said(look, look) == []


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (MeshLook(), MeshLook({"tion": READY}), ("session", "info", "tion", "configured; ready")),
        (
            MeshLook({"tion": READY}),
            MeshLook({"tion": LOST}),
            ("session", "warning", "tion", "ready -> disconnected: connection reset: what is known is kept"),
        ),
        (MeshLook({"tion": LOST}), MeshLook({"tion": READY}), ("session", "info", "tion", "disconnected -> ready")),
        (
            MeshLook({"tion": READY}),
            MeshLook({"tion": RemoteCluster(name="tion", state=PeerState.READY, session_since=9.0, cert_not_after=100.0)}),
            ("session", "warning", "tion", "the session was cut, and another one stands"),
        ),
        (
            MeshLook({"tion": READY}), MeshLook(),
            ("session", "info", "tion", "no longer configured: what is known of it goes"),
        ),
        (
            MeshLook(), MeshLook(readers=frozenset({"tion"})),
            ("session", "info", "reader tion", "reads the store of this cluster"),
        ),
        (
            MeshLook(), MeshLook(lost_nodes={"192.0.2.1": ("tion", "no answer")}),
            ("node", "warning", "192.0.2.1", "gets no new connections from this node: no answer"),
        ),
        (
            MeshLook(lost_nodes={"192.0.2.1": ("tion", "no answer")}), MeshLook(),
            ("node", "info", "192.0.2.1", "gets new connections from this node again"),
        ),
        (
            MeshLook(certificates={"server certificate": 10.0}), MeshLook(certificates={"server certificate": 20.0}),
            ("certificate", "info", "server certificate", "renewed: valid until 1970-01-01T00:00:20.000Z"),
        ),
        (
            MeshLook({"tion": READY}),
            MeshLook({"tion": RemoteCluster(name="tion", state=PeerState.READY, session_since=5.0, cert_not_after=200.0)}),
            ("certificate", "info", "tion", "its store shows a certificate valid until 1970-01-01T00:03:20.000Z"),
        ),
        (MeshLook(), MeshLook(policies={"CNP a/b": "refused: x"}), ("policy", "warning", "CNP a/b", "refused: x")),
        (
            MeshLook(policies={"CNP a/b": "refused: x"}), MeshLook(),
            ("policy", "info", "CNP a/b", "is in force as written, or gone"),
        ),
        (
            MeshLook(health={"store": ("ok", "")}), MeshLook(health={"store": ("degraded", "NOSPACE")}),
            ("program", "warning", "store", "ok -> degraded: NOSPACE"),
        ),
    ],
)  # fmt: skip
def test_each_change_is_one_event(before: MeshLook, after: MeshLook, event: tuple[str, str, str, str]) -> None:
    assert said(before, after) == [event]


def test_a_part_that_is_well_from_the_beginning_is_no_event() -> None:
    assert said(MeshLook(), MeshLook(health={"store": ("ok", "")})) == []


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T13:00:00.5+01:00", "2026-01-31T12:00:00.500Z"),
    ],
)
def test_times_are_compared_as_text(text: str, time: str) -> None:
    assert parse_event_time(text) == time
    assert parse_event_time(event_time(1.25)) == "1970-01-01T00:00:01.250Z"


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "yesterday", ""])
def test_a_time_without_zone_is_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are those of the standard library for one of them
        parse_event_time(text)


def test_events_are_ordered_by_time_then_as_each_program_counted() -> None:
    def event(time: str, node: str, number: int) -> MeshEvent:
        return MeshEvent(time=time, node=node, number=number, kind=EventKind.NODE, level=EventLevel.INFO, message="")

    mixed = [event("2", "b", 1), event("1", "b", 2), event("2", "a", 9), event("2", "a", 8)]
    assert [(e.time, e.node, e.number) for e in in_order(mixed)] == [
        ("1", "b", 2), ("2", "a", 8), ("2", "a", 9), ("2", "b", 1),
    ]  # fmt: skip
