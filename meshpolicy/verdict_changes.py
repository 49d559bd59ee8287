# SPDX-License-Identifier: Apache-2.0
"""Which verdicts differ between two engines: what applying a document would change, before it is applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from meshmodel.identity import NumericIdentity, Reserved, world_of
from meshpolicy.endpoint_policy import DirectionPolicy, EndpointPolicy
from meshpolicy.engine import Engine
from meshpolicy.entity import is_endpoint
from meshpolicy.mapstate import ANY_IDENTITY, Verdict, decide, find_longest
from meshpolicy.port import (
    ANY_PROTOCOL,
    ICMP,
    MAXIMUM_PORT,
    PORT_BITS,
    PORT_PROTOCOLS,
    PROTOCOL_NAMES,
    L4Key,
    NamedPorts,
)
from meshpolicy.prefix import parse_prefix
from meshpolicy.reference import Direction

_OTHER_PROTOCOL: Final = 255
"""Stands for every protocol that no rule names."""
_HOST: Final = NumericIdentity(Reserved.HOST)
_Known = dict[tuple[object, ...], tuple[tuple[tuple[str, ...], Verdict, Verdict], ...]]


class Peer(NamedTuple):
    """The other end: its name for people, and its identity as each of the two engines numbers it."""

    name: str
    before: int
    after: int


class VerdictChange(NamedTuple):
    """What new connections of an endpoint identity with a peer are judged differently. `packets` reads "80/TCP"."""

    direction: Direction
    subject: NumericIdentity
    peer: Peer
    packets: tuple[str, ...]
    before: Verdict
    after: Verdict


def verdict_changes(
    before: Engine, after: Engine, subjects: Iterable[NumericIdentity], ports: Mapping[NumericIdentity, NamedPorts]
) -> tuple[VerdictChange, ...]:
    """Every identity pair whose verdict changes, in order of direction, subject and peer.

    `subjects` are endpoint identities of the cluster, `ports` the names that their pods define. Peers are all identities
    and address ranges that either engine knows.
    """
    peers = _peers(before, after)
    found: list[VerdictChange] = []
    known: _Known = {}
    for subject in sorted(subjects):
        if not is_endpoint(after.labels_of(subject) or ()):
            continue
        policies = [engine.endpoint_policy(subject, ports.get(subject, {})) for engine in (before, after)]
        found += _changes_of(subject, policies[0], policies[1], peers, known)
    return tuple(found)


def host_changes(before: Engine, after: Engine) -> tuple[VerdictChange, ...]:
    """Every peer of whom the node with the labels that both engines know of the host is judged differently.

    Not the node itself: what stays on a node is not judged.
    """
    peers = [peer for peer in _peers(before, after) if peer.name != str(int(Reserved.HOST))]
    policies = [engine.endpoint_policy(_HOST) for engine in (before, after)]
    return tuple(_changes_of(_HOST, policies[0], policies[1], peers, {}))


def _changes_of(
    subject: NumericIdentity, old: EndpointPolicy, new: EndpointPolicy, peers: Sequence[Peer], known: _Known
) -> Iterable[VerdictChange]:
    """`known`: what was found for pairs of the same shape; its policies must still be there."""
    for direction in Direction:
        sides = old.side(direction), new.side(direction)
        if sides[0] == sides[1]:
            continue
        for peer in peers:
            numbers = (peer.before, peer.after)
            key = (
                direction,
                *(part for side, number in zip(sides, numbers, strict=True) for part in _shape(side, number)),
            )
            if key not in known:
                known[key] = tuple(_compare(direction, sides, peer))
            for change in known[key]:
                yield VerdictChange(direction, subject, peer, *change)


def _peers(before: Engine, after: Engine) -> Sequence[Peer]:
    numbers = {*before.identities(), *after.identities()}
    peers = [Peer(str(int(number)), int(number), int(number)) for number in sorted(numbers)]
    ranges = {*before.prefixes(), *after.prefixes()}
    return [*peers, *(Peer(text, _owner(before, text), _owner(after, text)) for text in sorted(ranges))]


def _owner(engine: Engine, text: str) -> int:
    """The identity that addresses of a range have: of the longest known range around it, else the world's."""
    wanted = parse_prefix(text)
    around = [parse_prefix(known) for known in engine.prefixes()]
    best = max((prefix for prefix in around if prefix.covers(wanted)), key=lambda prefix: prefix.bits, default=None)
    return int(world_of(text)) if best is None else int(engine.prefixes()[str(best)])


def _shape(side: DirectionPolicy, peer: int) -> tuple[object, ...]:
    """What decides about a peer; groups are shared, so that equal parts are found by their address."""
    return side.enforced, id(side.groups.get(peer)), id(side.groups.get(ANY_IDENTITY))


def _compare(
    direction: Direction, sides: tuple[DirectionPolicy, DirectionPolicy], peer: Peer
) -> Iterable[tuple[tuple[str, ...], Verdict, Verdict]]:
    """The packets whose verdict differs, together where the same rules decide."""
    numbers = (peer.before, peer.after)
    keys = {
        key
        for side, number in zip(sides, numbers, strict=True)
        for owner in (number, ANY_IDENTITY)
        for key in side.groups.get(owner, {})
    }
    changed: dict[tuple[object, ...], tuple[list[str], Verdict, Verdict]] = {}
    is_everything = True
    for protocol, first, last in _ranges(keys):
        old, new = (_judge(direction, side, n, protocol, first) for side, n in zip(sides, numbers, strict=True))
        if old.allowed == new.allowed:
            is_everything = False
            continue
        by = tuple(None if verdict.entry is None else verdict.entry.rule for verdict in (old, new))
        changed.setdefault((new.allowed, *by), ([], old, new))[0].append(packets_text(protocol, first, last))
    for texts, old, new in changed.values():
        yield ("everything",) if is_everything and len(changed) == 1 else tuple(texts), old, new


def _ranges(keys: Iterable[L4Key]) -> Iterable[tuple[int, int, int]]:
    """(protocol, first, last) such that no key tells two packets of one range apart."""
    starts: dict[int, set[int]] = {protocol: {0} for protocol in (*PORT_PROTOCOLS, ICMP, _OTHER_PROTOCOL)}
    for key in keys:
        if key.protocol != ANY_PROTOCOL:
            size = 1 << (PORT_BITS - key.bits)
            starts.setdefault(key.protocol, {0}).update({key.port, key.port + size} - {MAXIMUM_PORT + 1})
    for protocol, found in sorted(starts.items()):
        ordered = sorted(found)
        for first, following in zip(ordered, [*ordered[1:], MAXIMUM_PORT + 1], strict=True):
            yield protocol, first, following - 1


def _judge(direction: Direction, side: DirectionPolicy, peer: int, protocol: int, port: int) -> Verdict:
    if not side.enforced:
        return Verdict(allowed=True, key=None, entry=None)
    named, anyone = side.groups.get(peer), side.groups.get(ANY_IDENTITY)
    return decide(
        direction,
        peer,
        find_longest(named.get, protocol, port) if named else None,
        find_longest(anyone.get, protocol, port) if anyone else None,
    )


def packets_text(protocol: int, first: int, last: int) -> str:
    """Some packets in words: "80/TCP", "80-90/TCP", "TCP" for all of them."""
    name = "other protocols" if protocol == _OTHER_PROTOCOL else PROTOCOL_NAMES.get(protocol, str(protocol))
    if (first, last) == (0, MAXIMUM_PORT):
        return name
    return f"{first}/{name}" if first == last else f"{first}-{last}/{name}"
