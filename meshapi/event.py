# SPDX-License-Identifier: Apache-2.0
"""What happened: changes of sessions, nodes, certificates, policies and programs, found by comparing two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from meshapi.peer import PeerState, RemoteCluster
from meshapi.row import SCHEMA, Row

MAXIMUM_TEXT: Final = 256


class EventKind(StrEnum):
    """What it happened to. OBJECT is somebody's Kubernetes object, told by a Kubernetes Event of ours."""

    SESSION = "session"
    NODE = "node"
    CERTIFICATE = "certificate"
    POLICY = "policy"
    PROGRAM = "program"
    OBJECT = "object"


class EventLevel(StrEnum):
    """WARNING: somebody should look."""

    INFO = "info"
    WARNING = "warning"


class MeshEvent(Row, kw_only=True):
    """One event. `time` is RFC 3339 with milliseconds; `number` counts the events of one run of `program`.

    `cluster` is whose program saw it, `node` which agent (empty: the apiserver), `peer` the other cluster that it is about.
    """

    schema: int = SCHEMA
    time: str
    number: int = 0
    cluster: str = ""
    program: str = ""
    node: str = ""
    kind: EventKind
    level: EventLevel = EventLevel.INFO
    peer: str = ""
    subject: str = ""
    message: str


def is_asked_for(event: MeshEvent, *, since: str, kind: str, cluster: str) -> bool:
    """Whether one who asks with these words is told `event`; "" asks for all. `cluster` is any that has a part in it."""
    return (
        event.time >= since
        and (not kind or event.kind == kind)
        and (not cluster or cluster in (event.cluster, event.peer))
    )


class Happened(NamedTuple):
    """An event without the time and without who saw it."""

    kind: EventKind
    level: EventLevel
    peer: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class MeshLook:
    """One look at a program. `health` is level and message by part; `lost_nodes` peer and reason by address.

    `policies` says what is wrong with those that are not in force as written; `certificates` are ends in wall s by what they
    are; `readers` are the peers whose programs read the store.
    """

    peers: Mapping[str, RemoteCluster] = field(default_factory=dict)
    health: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    lost_nodes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, float] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()


def what_happened(before: MeshLook, after: MeshLook) -> list[Happened]:
    """Everything that changed between two looks, in a fixed order; equal looks give nothing."""
    return [
        *_sessions(before.peers, after.peers),
        *_readers(before.readers, after.readers),
        *_nodes(before.lost_nodes, after.lost_nodes),
        *_certificates(before, after),
        *(() if before.policies is after.policies else _policies(before.policies, after.policies)),
        *(() if before.health is after.health else _parts(before.health, after.health)),
    ]


def event_time(wall_s: float) -> str:
    """RFC 3339 in UTC with milliseconds: equal lengths, so that text sorts as time does."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_event_time(text: str) -> str:
    """Any RFC 3339 time as `event_time` writes it. Raises: ValueError."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write 2026-01-31T12:00:00Z")
    return event_time(found.timestamp())


def _sessions(before: Mapping[str, RemoteCluster], after: Mapping[str, RemoteCluster]) -> Iterator[Happened]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if new is None:
            yield _info(EventKind.SESSION, name, "no longer configured: what is known of it goes")
        elif old is None:
            yield _info(EventKind.SESSION, name, f"configured; {_state(new)}")
        elif old.state != new.state:
            level = EventLevel.INFO if _is_fine(new.state) else EventLevel.WARNING
            yield Happened(EventKind.SESSION, level, name, name, f"{old.state} -> {_state(new)}"[:MAXIMUM_TEXT])
        elif old.session_since and new.session_since and old.session_since != new.session_since:
            yield _warning(EventKind.SESSION, name, name, "the session was cut, and another one stands")
        elif old.reason != new.reason and new.reason and not _is_fine(new.state):
            yield _warning(EventKind.SESSION, name, name, f"still {_state(new)}")


def _is_fine(state: str) -> bool:
    return state in (PeerState.READY, PeerState.SYNCING, PeerState.CONNECTING)


def _state(peer: RemoteCluster) -> str:
    return f"{peer.state}: {peer.reason}" if peer.reason else str(peer.state)


def _readers(before: frozenset[str], after: frozenset[str]) -> Iterator[Happened]:
    for name in sorted(after - before):
        yield _info(EventKind.SESSION, name, "reads the store of this cluster", subject=f"reader {name}")
    for name in sorted(before - after):
        yield _info(EventKind.SESSION, name, "no longer reads the store of this cluster", subject=f"reader {name}")


def _nodes(before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]) -> Iterator[Happened]:
    for ip in sorted({*before, *after}):
        old, new = before.get(ip), after.get(ip)
        if new is not None and new != old:
            yield _warning(EventKind.NODE, new[0], ip, f"gets no new connections from this node: {new[1]}")
        elif new is None and old is not None:
            yield _info(EventKind.NODE, old[0], "gets new connections from this node again", subject=ip)


def _certificates(before: MeshLook, after: MeshLook) -> Iterator[Happened]:
    for what in sorted(after.certificates):
        old, new = before.certificates.get(what, 0.0), after.certificates[what]
        if old and new and old != new:
            message = f"renewed: valid until {event_time(new)}"
            yield Happened(EventKind.CERTIFICATE, EventLevel.INFO, "", what, message)
    for name in sorted({*before.peers} & {*after.peers}):
        old, new = before.peers[name].cert_not_after, after.peers[name].cert_not_after
        if old and new and old != new:
            yield _info(EventKind.CERTIFICATE, name, f"its store shows a certificate valid until {event_time(new)}")


def _policies(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Happened]:
    for name in sorted({*before, *after}):
        old, new = before.get(name, ""), after.get(name, "")
        if new and new != old:
            yield _warning(EventKind.POLICY, "", name, new)
        elif old and not new:
            yield Happened(EventKind.POLICY, EventLevel.INFO, "", name, "is in force as written, or gone")


def _parts(before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]) -> Iterator[Happened]:
    for name in sorted(after):
        level, message = after[name]
        old = before[name][0] if name in before else ""
        if level != old and (old or level != "ok"):
            said = f"{old or 'new'} -> {level}{f': {message}' if message else ''}"
            is_fine = level in ("ok", "starting")
            found = EventLevel.INFO if is_fine else EventLevel.WARNING
            yield Happened(EventKind.PROGRAM, found, "", name, said[:MAXIMUM_TEXT])


def _info(kind: EventKind, peer: str, message: str, *, subject: str = "") -> Happened:
    return Happened(kind, EventLevel.INFO, peer, subject or peer, message[:MAXIMUM_TEXT])


def _warning(kind: EventKind, peer: str, subject: str, message: str) -> Happened:
    return Happened(kind, EventLevel.WARNING, peer, subject, message[:MAXIMUM_TEXT])


def in_order(events: Iterable[MeshEvent]) -> list[MeshEvent]:
    """By time; events of one program at one time in the order in which it counted them."""
    return sorted(events, key=lambda e: (e.time, e.cluster, e.program, e.node, e.number))
