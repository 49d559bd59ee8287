# SPDX-License-Identifier: Apache-2.0
"""The order in which an endpoint's policy is rewritten. Pure.

Between any two writes every packet is judged as the old or as the new policy judges it. Entries that appear or gain precedence
are put first, the strongest first: the first one that matches a packet is the one that decides it in the new policy.
Entries that vanish or lose precedence come after, the weakest first: the last one to match is the one that decided in the
old policy. A direction that stops being enforced loses its flag before all this, one that starts gains it after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from agent.datapath.layout import PolicyValue
from meshpolicy import EndpointPolicy, Entry, EntryKey
from meshpolicy.port import L4Key


class Difference(NamedTuple):
    """One key whose value changes; None: absent before, or absent after."""

    key: EntryKey
    old: PolicyValue | None
    new: PolicyValue | None


class Write(NamedTuple):
    """Put the value, or delete the key where there is none."""

    key: EntryKey
    value: PolicyValue | None


def policy_value(entry: Entry) -> PolicyValue:
    """The map value of an entry; the rule is named by its stable number."""
    return PolicyValue(entry.deny, entry.precedence, entry.rule.number, entry.proxy_port)


def differences(old: EndpointPolicy, new: EndpointPolicy) -> list[Difference]:
    """What differs between two compiled policies; parts they share cost nothing."""
    diff = new.diff(old)
    found = [Difference(key, _value_in(old, key), policy_value(entry)) for key, entry in diff.updates.items()]
    found += [Difference(key, _value_in(old, key), None) for key in diff.deletes]
    return found


def differences_from_map(held: Mapping[EntryKey, PolicyValue], new: EndpointPolicy) -> list[Difference]:
    """What differs between what the map holds and a policy: after a restart, or after a failed write."""
    wanted = {key: policy_value(entry) for key, entry in new.entries.items()}
    found = [Difference(key, held.get(key), value) for key, value in wanted.items() if held.get(key) != value]
    found += [Difference(key, value, None) for key, value in held.items() if key not in wanted]
    return found


def order(changes: Iterable[Difference]) -> list[Write]:
    """The writes for these differences, in an order that is safe at every step."""
    rising: list[tuple[int, Write]] = []
    falling: list[tuple[int, Write]] = []
    for key, old, new in changes:
        if new is not None and (old is None or new.precedence >= old.precedence):
            rising.append((-new.precedence, Write(key, new)))
        elif old is not None:
            falling.append((old.precedence, Write(key, new)))
    rising.sort(key=lambda pair: pair[0])
    falling.sort(key=lambda pair: pair[0])
    return [write for _, write in (*rising, *falling)]


def runs(writes: Iterable[Write]) -> list[tuple[bool, list[Write]]]:
    """The same writes in the same order, cut into runs of only puts (true) or only deletes: one map call each."""
    return [(is_put, list(run)) for is_put, run in groupby(writes, key=lambda w: w.value is not None)]


def _value_in(policy: EndpointPolicy, key: EntryKey) -> PolicyValue | None:
    group = policy.side(key.direction).groups.get(key.identity, {})
    entry = group.get(L4Key(key.protocol, key.port, key.port_bits))
    return None if entry is None else policy_value(entry)
