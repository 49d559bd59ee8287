# SPDX-License-Identifier: Apache-2.0
"""The order in which an endpoint's policy is rewritten. Pure.

Law: between any two writes every packet is judged as the old or as the new policy judges it. The kernel takes the longest key
per peer (the packet's identity, and any), then the higher precedence of the two. So the rewrite goes over the stronger of both
policies: first every key gets the highest precedence that either policy gives its packets, strongest first (of two ports of
the proxy the one for the packet's identity first), so that a packet's verdict jumps at most once, to the one it shall have;
then every key gets what the new policy says, weakest first. Entries that one policy hides behind a longer key cannot show
through on the way. A direction that stops being enforced loses its flag before all this, one that starts gains it after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from agent.datapath.layout import PolicyValue
from meshpolicy import ANY_IDENTITY, Direction, EndpointPolicy, EntryKey, PolicyEntry
from meshpolicy.port import EVERYTHING, PORT_BITS, L4Key
from meshpolicy.tier import Level

Values = Mapping[L4Key, PolicyValue]


class ClassChange(NamedTuple):
    """All entries for one peer in one direction, before and after."""

    direction: Direction
    identity: int
    old: Values
    new: Values


class Write(NamedTuple):
    """Put the value, or delete the key where there is none."""

    key: EntryKey
    value: PolicyValue | None

    @property
    def is_guard(self) -> bool:
        """Whether it is of the guard of the node, which goes before everything else."""
        return self.value is not None and is_guard(self.value.precedence)


def is_guard(precedence: int) -> bool:
    """Whether an entry of this precedence is of the guard of the node."""
    return precedence >> 8 == Level.DEFAULT - Level.GUARD


def policy_value(entry: PolicyEntry) -> PolicyValue:
    """The map value of an entry; the rule is named by its stable number."""
    return PolicyValue(entry.deny, entry.precedence, entry.rule.number, entry.proxy_port)


def changes(old: EndpointPolicy, new: EndpointPolicy) -> list[ClassChange]:
    """What differs between two compiled policies; parts they share cost nothing."""
    diff = new.diff(old)
    peers = {(key.direction, key.identity) for key in (*diff.updates, *diff.deletes)}
    return [
        ClassChange(direction, identity, _values(old, direction, identity), _values(new, direction, identity))
        for direction, identity in sorted(peers)
    ]


def changes_from_map(held: Mapping[EntryKey, PolicyValue], new: EndpointPolicy) -> list[ClassChange]:
    """What differs between what the map holds and a policy: after a restart, or after a failed write."""
    old: dict[tuple[Direction, int], dict[L4Key, PolicyValue]] = {}
    for key, value in held.items():
        old.setdefault((key.direction, key.identity), {})[L4Key(key.protocol, key.port, key.port_bits)] = value
    peers = set(old) | {(d, identity) for d in Direction for identity in new.side(d).groups}
    found = [ClassChange(d, i, old.get((d, i), {}), _values(new, d, i)) for d, i in sorted(peers)]
    return [change for change in found if change.old != change.new]


class Closing(NamedTuple):
    """How to come as near to a policy as a full map lets us, never beyond it; each part in the order of its writes.

    First keys are deleted that only allow plainly (`opening`), then what denies and after it the guard and what leads to a
    proxy is put (`restricting`). Only when all of that found room, what denied or led to a proxy before is deleted
    (`outdated`), and what allows plainly is put, as much of it as finds room (`others`): first where a key only changes
    its value, which needs no room.
    """

    opening: list[EntryKey]
    restricting: list[Write]
    outdated: list[EntryKey]
    others: list[Write]


def closing(held: Mapping[EntryKey, PolicyValue], new: EndpointPolicy) -> Closing:
    """The writes from what the map holds to the policy, where there may be no room for all of them."""
    wanted = {key: policy_value(entry) for key, entry in new.entries.items()}
    surplus = sorted((key for key in held if key not in wanted), key=lambda key: held[key].precedence)
    missing = sorted(
        (Write(key, value) for key, value in wanted.items() if held.get(key) != value),
        key=lambda write: (not wanted[write.key].deny, -wanted[write.key].precedence, write.key),
    )
    others = [write for write in missing if not write.is_guard and not restricts(wanted[write.key])]
    return Closing(
        [key for key in surplus if not restricts(held[key])],
        [write for write in missing if write.is_guard or restricts(wanted[write.key])],
        [key for key in surplus if restricts(held[key])],
        sorted(others, key=lambda write: write.key not in held),
    )


def emptying(held: Mapping[EntryKey, PolicyValue]) -> list[ClassChange]:
    """What differs between what the map holds and the guard in it alone."""
    old: dict[tuple[Direction, int], dict[L4Key, PolicyValue]] = {}
    for key, value in held.items():
        old.setdefault((key.direction, key.identity), {})[L4Key(key.protocol, key.port, key.port_bits)] = value
    guards = {peer: {l4: v for l4, v in values.items() if is_guard(v.precedence)} for peer, values in old.items()}
    return [ClassChange(*peer, values, guards[peer]) for peer, values in sorted(old.items()) if values != guards[peer]]


def restricts(value: PolicyValue | PolicyEntry) -> bool:
    """Whether packets might go on unhindered if it was not there."""
    return bool(value.deny or value.proxy_port)


def copies_of(held: Mapping[EntryKey, PolicyValue], likes: Mapping[int, int]) -> list[Write]:
    """Entries by which each identity of `likes` is treated as the one that it is mapped to; denials first."""
    by_identity: dict[int, list[tuple[EntryKey, PolicyValue]]] = {}
    for key, value in held.items():
        by_identity.setdefault(key.identity, []).append((key, value))
    found = [
        (key._replace(identity=new), value) for new, old in likes.items() for key, value in by_identity.get(old, ())
    ]
    return [Write(key, value) for key, value in sorted(found, key=lambda item: not item[1].deny)]


def denials_of(held: Mapping[EntryKey, PolicyValue], pairs: Iterable[tuple[int, int]]) -> list[Write]:
    """Entries by which the first of each pair is denied what the second is; a stronger denial stays as it is."""
    denials: dict[int, list[tuple[EntryKey, PolicyValue]]] = {}
    for key, value in held.items():
        if value.deny:
            denials.setdefault(key.identity, []).append((key, value))
    found: dict[EntryKey, PolicyValue] = {}
    for new, old in pairs:
        for key, value in denials.get(old, ()):
            copy = key._replace(identity=new)
            there = found.get(copy, held.get(copy))
            if there is None or not there.deny or there.precedence < value.precedence:
                found[copy] = value
    return [Write(key, value) for key, value in found.items()]


def order(found: Iterable[ClassChange]) -> list[Write]:
    """The writes for these changes, in an order that is safe at every step."""
    rising: list[tuple[int, Write]] = []
    falling: list[tuple[int, Write]] = []
    for change in found:
        for l4 in change.old.keys() | change.new.keys():
            strongest = _strongest(l4, change.old, change.new)
            key = EntryKey(change.direction, change.identity, *l4)
            wanted = change.new.get(l4)
            if change.old.get(l4) != strongest:
                rising.append((-strongest.precedence, Write(key, strongest)))
            if wanted != strongest:
                falling.append((strongest.precedence, Write(key, wanted)))
    rising.sort(key=lambda pair: (pair[0], pair[1].key.identity == ANY_IDENTITY, pair[1].key))
    falling.sort(key=lambda pair: (pair[0], pair[1].key))
    return [write for _, write in (*rising, *falling)]


def runs(writes: Iterable[Write]) -> list[tuple[bool, list[Write]]]:
    """The same writes in the same order, cut into runs of only puts (true) or only deletes: one map call each."""
    return [(is_put, list(run)) for is_put, run in groupby(writes, key=lambda w: w.value is not None)]


def _strongest(key: L4Key, old: Values, new: Values) -> PolicyValue:
    """The highest precedence that either policy gives packets of this key; at equal precedence what is new."""
    best: PolicyValue | None = None
    for covering in _covering(key):
        for values in (new, old):
            value = values.get(covering)
            if value is not None and (best is None or value.precedence > best.precedence):
                best = value
    assert best is not None  # the key itself is in one of the two
    return best


def _covering(key: L4Key) -> Iterator[L4Key]:
    """The key and every shorter one that its packets match too, longest first."""
    for bits in range(key.bits, -1, -1) if key.protocol else ():
        yield L4Key(key.protocol, key.port >> (PORT_BITS - bits) << (PORT_BITS - bits), bits)
    yield EVERYTHING


def _values(policy: EndpointPolicy, direction: Direction, identity: int) -> Values:
    return {key: policy_value(entry) for key, entry in policy.side(direction).groups.get(identity, {}).items()}
