# SPDX-License-Identifier: Apache-2.0
"""Two peers that are followed: attempts, lost connections, refused and changed configurations, a consumer that fails.

The session's own decisions run (`_begin`, `_take`, `_note`, with `RecordViews`, `FollowedCluster`, `Reservations`,
`why_config_ends`), driven without a store and without a loop. A world is forked by running its history again.
"""

from __future__ import annotations

from collections.abc import Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kvstore.store import Batch, ChangeKind, Event, Phase
from meshkit.clock import ManualClock
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.errors import ModelError
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.consumer import Change
from meshpeer.followed import FollowedCluster
from meshpeer.record_views import RecordViews
from meshpeer.reservations import Own, Reservations
from meshpeer.session import RecordStream, Session, SessionOptions
from meshpeer.signals import Streams, why_config_ends

SLICES_ONLY: Final = "endpointslices-only"
FIRST_IDS: Final = {"south": 2, "east": 3}
UNKNOWN_FORM: Final = "of-a-later-version"
"""A peer whose configuration says so is refused."""


class FailedError(Exception):
    """The consumer failed."""


class Consumer:
    """What is known, by kind, and under which id."""

    def __init__(self) -> None:
        self.known: dict[Kind, dict[bytes, bytes]] = {}
        self.id = 0
        self.fails = False
        self._outdated: set[Kind] = set()

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        self.id = config.id
        self._outdated = set(self.known) - set(kinds)

    def apply(self, kind: Kind, changes: Sequence[Change]) -> int:
        if self.fails:
            self.fails = False
            raise FailedError
        known = self.known.setdefault(kind, {})
        for key, value in changes:
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value
        return len(changes)

    async def listed(self, kind: Kind) -> None:
        if kind in (Kind.SERVICES, Kind.ENDPOINT_SLICES):
            for outdated in self._outdated & {Kind.SERVICES, Kind.ENDPOINT_SLICES}:
                self.known.pop(outdated, None)

    def drain(self) -> None:
        self.known.clear()
        self.id = 0

    def remove(self) -> None:
        self.drain()


@dataclass
class Peer:
    """What a cluster publishes, and how far an attempt to follow it is: kinds whose listing began, kinds that are listed."""

    name: ClusterName
    id: int
    session: Session
    state: FollowedCluster
    consumer: Consumer
    form: Kind = Kind.SERVICES
    is_wrong: bool = False
    records: tuple[bytes, ...] = (b"a", b"b")
    attempt: ClusterConfig | None = None
    begun: set[Kind] = field(default_factory=set)
    listed: set[Kind] = field(default_factory=set)
    changes: int = 0

    def config(self) -> ClusterConfig:
        mode = SLICES_ONLY if self.form is Kind.ENDPOINT_SLICES else ""
        mode = UNKNOWN_FORM if self.is_wrong else mode
        return ClusterConfig(
            id=ClusterId(self.id),
            endpoint_slices_export_mode=mode,
        )


class SessionWorld:
    """`turns`: which changes may happen, each so often as it stands there, by peer: `south changes its id`."""

    def __init__(self, turns: Sequence[str], history: Sequence[str] = ()) -> None:
        self.turns, self.history = list(turns), []
        self.clock = ManualClock()
        self.reservations = Reservations(Own(ClusterName("north"), ClusterId(1)))
        self.peers = {name: self._peer(name, number) for name, number in FIRST_IDS.items()}
        self.expected: dict[str, dict[bytes, int]] = {name: {} for name in self.peers}
        for step in history:
            self.do(step)

    def _peer(self, name: str, number: int) -> Peer:
        state, consumer, cluster = FollowedCluster(ClusterName(name)), Consumer(), ClusterName(name)

        async def connect() -> Any:
            raise AssertionError("no store is asked here")

        session = Session(
            state, consumer, RecordViews(), connect=connect, accept=self.reservations.accept, clock=self.clock,
            options=SessionOptions(nodes_first_s=0.0),
        )  # fmt: skip
        return Peer(cluster, number, session, state, consumer)

    def fork(self) -> SessionWorld:
        return SessionWorld(self._first_turns, self.history)

    @property
    def _first_turns(self) -> list[str]:
        return [*self.turns, *(step for step in self.history if step.partition(" ")[2] in _TURNS)]

    def steps(self) -> Iterable[str]:
        found = list(dict.fromkeys(self.turns))
        for name, peer in self.peers.items():
            if peer.attempt is None:
                found.append(f"{name} is attempted")
                continue
            form = _form(peer)
            found += [f"{name} begins to list"] if form not in peer.begun else []
            found += [f"{name} is listed"] if form in peer.begun - peer.listed else []
            found.append(f"{name} is lost")
            if why_config_ends(peer.attempt, peer.config()):
                found.append(f"{name} is looked at again")
        return found

    def do(self, step: str) -> None:
        name, _, what = step.partition(" ")
        peer = self.peers[name]
        self.history.append(step)
        if what in _TURNS:
            self.turns.remove(step)
            self._turn(peer, what)
        elif what == "is attempted":
            self._attempt(peer)
        elif what == "begins to list":
            self._feed(peer, Phase.LISTING, peer.records[:1])
        elif what == "is listed":
            self._feed(peer, Phase.LISTED, peer.records[1:])
        else:
            self._end(peer, "lost")
        self._expect(peer)

    def _turn(self, peer: Peer, what: str) -> None:
        match what:
            case "takes the other's id":
                peer.id = FIRST_IDS["east" if peer.name == "south" else "south"]
            case "changes its id":
                peer.id += 10
            case "changes its form":
                peer.form = Kind.ENDPOINT_SLICES if peer.form is Kind.SERVICES else Kind.SERVICES
            case "says a form unknown here":
                peer.is_wrong = True
            case "says its form again":
                peer.is_wrong = False
            case "deletes a record":
                peer.records = peer.records[:1]
                if peer.attempt is not None and _form(peer) in peer.listed:
                    self._deliver(peer, Batch(Phase.CHANGES, (_event(peer, b"b", ChangeKind.DELETE),), 2))
            case _:
                peer.consumer.fails = True

    def _attempt(self, peer: Peer) -> None:
        config = peer.config()
        peer.session._streams = Streams(self.clock.monotonic())
        try:
            _run(peer.session._begin(config))
        except ModelError as exc:
            peer.state.fail(self.clock.wall(), str(exc), is_refused=True)
            return
        peer.attempt, peer.begun, peer.listed = config, set(), set()

    def _feed(self, peer: Peer, phase: Phase, names: Sequence[bytes]) -> None:
        events = [_event(peer, name, ChangeKind.PUT) for name in names]
        (peer.begun if phase is Phase.LISTING else peer.listed).add(_form(peer))
        self._deliver(peer, Batch(phase, events, 1))

    def _deliver(self, peer: Peer, batch: Batch) -> None:
        stream = RecordStream(_form(peer), _prefix(peer), None)
        peer.session._note(stream.name, batch)
        try:
            _run(peer.session._take(stream, batch))
        except FailedError:
            self._end(peer, "the consumer failed")

    def _end(self, peer: Peer, why: str) -> None:
        peer.attempt, peer.begun, peer.listed = None, set(), set()
        peer.state.lose(self.clock.monotonic(), why)
        peer.state.fail(self.clock.wall(), why, is_refused=False)

    def _expect(self, peer: Peer) -> None:
        """What is known of a peer stays known while it publishes it under the same id."""
        known = {key for found in peer.consumer.known.values() for key in found}
        kept = {key for key, number in self.expected[peer.name].items() if number == peer.id and key in peer.records}
        self.expected[peer.name] = dict.fromkeys(known | kept, peer.id) if peer.consumer.id == peer.id else {}

    def key(self) -> Hashable:
        return tuple(
            (
                peer.id, peer.form, peer.is_wrong, peer.records, peer.attempt, tuple(sorted(peer.begun)),
                tuple(sorted(peer.listed)), peer.consumer.id, peer.consumer.fails, peer.state.state, peer.state.config,
                tuple(sorted(peer.state.synced.items())), tuple(sorted(self.expected[peer.name].items())),
                tuple((kind, tuple(sorted(found))) for kind, found in sorted(peer.consumer.known.items())),
                tuple((part, tuple(sorted(view._known.items()))) for part, view in sorted(peer.session._views._parts.items())),
            )
            for peer in self.peers.values()
        ), tuple(sorted(self.turns)), tuple(sorted(self.reservations._taken.items()))  # fmt: skip

    def problem(self) -> str | None:
        holders: dict[int, str] = {}
        for name, peer in self.peers.items():
            known = {key for found in peer.consumer.known.values() for key in found}
            if lost := self.expected[name].keys() - known:
                return f"{name} is alive and has the same id, and {sorted(lost)} of it vanished"
            if known and (other := holders.setdefault(peer.consumer.id, name)) != name:
                return f"records of {other} and of {name} are known under one id, {peer.consumer.id}"
        return None

    def healed(self) -> str | None:
        """Whatever happened, once a peer may be followed, what it publishes is known, and nothing else."""
        world = self.fork()
        for name, peer in world.peers.items():
            other = next(p for p in world.peers.values() if p is not peer)
            if peer.is_wrong or peer.id in (1, other.id, other.consumer.id):
                continue
            peer.consumer.fails = False
            for step in (f"{name} is lost", *[f"{name} {what}" for what in _WHOLE]):
                if step in world.steps() or peer.attempt is not None:
                    world.do(step)
            found = {key for kind, records in peer.consumer.known.items() if records for key in records}
            if found != set(peer.records) or not peer.state.is_connected:
                return f"{name} publishes {peer.records}, and {sorted(found)} of it is known: {peer.state.shown}"
        return None


_TURNS: Final = frozenset(
    {
        "takes the other's id", "changes its id", "changes its form", "says a form unknown here", "says its form again",
        "deletes a record", "meets a failing consumer",
    }
)  # fmt: skip
_WHOLE: Final = ("is attempted", "begins to list", "is listed")


def _form(peer: Peer) -> Kind:
    assert peer.attempt is not None
    return Kind.ENDPOINT_SLICES if peer.attempt.endpoint_slices_export_mode else Kind.SERVICES


def _prefix(peer: Peer) -> bytes:
    return keys.prefix_of(_form(peer), peer.name, cached=False)


def _event(peer: Peer, name: bytes, kind: ChangeKind) -> Event:
    return Event(kind, _prefix(peer) + name, b"" if kind is ChangeKind.DELETE else b"1", 1)


def _run(job: Coroutine[Any, Any, None]) -> None:
    """Nothing in it waits: what it would wait for is in memory."""
    try:
        while job.send(None) is None:  # a turn for other tasks, of which there are none
            pass
    except StopIteration:
        return
    job.close()
    raise AssertionError("it waits")
