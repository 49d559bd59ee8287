# SPDX-License-Identifier: Apache-2.0
"""What is enforced of a policy that has more entries than one pod may have in the map of its node. Pure.

Other namespaces' policies decide how many that are: a rule for a wide range has entries for each range within it that any
policy names. So these have room last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

from agent.policy.plan import is_guard, restricts
from agent.tables import EndpointVerdicts
from meshmodel.identity import is_of_range
from meshpolicy import ANY_IDENTITY, Direction, EndpointPolicy, EntryKey, PolicyEntry
from meshpolicy.endpoint_policy import DirectionPolicy
from meshpolicy.mapstate import Group
from meshpolicy.port import L4Key

_Items = list[tuple[L4Key, PolicyEntry]]
_NO_RANGE: Final[frozenset[int]] = frozenset()
_NO_GROUP: Final[Group] = {}


class _Parts(NamedTuple):
    """The entries of a group in the order of their keys: of the guard, what denies or leads to a proxy, what allows plainly."""

    guard: _Items
    restricting: _Items
    plain: _Items


class _Peer(NamedTuple):
    """All entries for one peer. `is_open`: without them packets of the peer may be allowed by what is said of everybody."""

    direction: Direction
    identity: int
    parts: _Parts
    is_open: bool


def fit(policy: EndpointPolicy, most: int, own_ranges: Set[int] = _NO_RANGE) -> EndpointPolicy:
    """The policy, or what of it fits into `most` entries without allowing anything that it does not allow.

    Peers have room in this order: pods, nodes and the world; the ranges that the endpoint's own rules name (`own_ranges`);
    ranges that other policies name. Of a peer everything that denies or leads to a proxy has room, or nothing has. Where
    something is allowed to everybody, all that denies or leads to a proxy must have room; otherwise no entry has any: then
    the directions that are enforced deny everything. The guard of the node stays in any case.
    """
    if policy.size <= most:
        return policy
    kept: dict[EntryKey, PolicyEntry] = {}
    peers = _Peers(policy)
    for peer in peers:
        _keep(kept, peer, peer.parts.guard)
    room = most - len(kept)
    needed = [peer for peer in peers if peer.is_open]
    room -= sum(len(peer.parts.restricting) for peer in needed)
    if room >= 0:
        for peer in needed:
            _keep(kept, peer, peer.parts.restricting)
        _keep_most(kept, peers, room, own_ranges)
    sides: dict[Direction, dict[int, dict[L4Key, PolicyEntry]]] = {d: {} for d in Direction}
    for key, entry in kept.items():
        group = sides[key.direction].setdefault(key.identity, {})
        group[L4Key(key.protocol, key.port, key.port_bits)] = entry
    return EndpointPolicy(
        DirectionPolicy(policy.ingress_enforced, sides[Direction.INGRESS]),
        DirectionPolicy(policy.egress_enforced, sides[Direction.EGRESS]),
    )


def describe_excess(row: EndpointVerdicts, share: int) -> str:
    """Why a policy that does not fit is not enforced as written; `share` is the most for any pod."""
    foreign = _foreign_entries(row.policy, row.own_ranges)
    of_others = f", {foreign} of them for address ranges that only other policies name" if foreign else ""
    limit = f"{share} is the most for one pod"
    if 0 < row.most < share:
        limit = f"{row.most} is the most for a pod of its namespace while the policy map is full (policy-entries)"
    return (
        f"the policy has {row.policy.size} map entries{of_others}, and {limit}: what is allowed beyond them is denied"
    )


def _foreign_entries(policy: EndpointPolicy, own_ranges: Set[int]) -> int:
    """How many entries are for ranges that the endpoint's own rules do not name."""
    sides = (policy.side(direction).groups for direction in Direction)
    return sum(len(group) for side in sides for n, group in side.items() if is_of_range(n) and n not in own_ranges)


def _keep_most(kept: dict[EntryKey, PolicyEntry], peers: Iterable[_Peer], room: int, own_ranges: Set[int]) -> None:
    """Peers, as many as have room, beside what is kept already."""
    for rank in range(3):
        for peer in peers:
            if _rank(peer.identity, own_ranges) != rank:
                continue
            restricting = [] if peer.is_open else peer.parts.restricting
            if len(restricting) > room:
                continue
            plain = peer.parts.plain[: room - len(restricting)]
            _keep(kept, peer, restricting)
            _keep(kept, peer, plain)
            room -= len(restricting) + len(plain)


def _rank(identity: int, own_ranges: Set[int]) -> int:
    return 0 if not is_of_range(identity) else 1 if identity in own_ranges else 2


def _keep(kept: dict[EntryKey, PolicyEntry], peer: _Peer, items: _Items) -> None:
    kept.update((EntryKey(peer.direction, peer.identity, *key), entry) for key, entry in items)


class _Peers:
    """All peers of a policy, as often as asked, one by one: all entries of a large policy at once would need gigabytes."""

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._parts: dict[int, _Parts] = {}  # by group, of which many peers share one

    def __iter__(self) -> Iterator[_Peer]:
        for direction in sorted(Direction):
            groups = self._policy.side(direction).groups
            lets_everybody_in = any(not entry.deny for entry in groups.get(ANY_IDENTITY, _NO_GROUP).values())
            for identity in sorted(groups):
                group = groups[identity]
                if id(group) not in self._parts:
                    self._parts[id(group)] = _parts_of(group)
                is_open = lets_everybody_in or identity == ANY_IDENTITY
                yield _Peer(direction, identity, self._parts[id(group)], is_open)


def _parts_of(group: Group) -> _Parts:
    found = _Parts([], [], [])
    for key, entry in sorted(group.items()):
        part = found.guard if is_guard(entry.precedence) else found.restricting if restricts(entry) else found.plain
        part.append((key, entry))
    return found
