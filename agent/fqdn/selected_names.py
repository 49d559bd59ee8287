# SPDX-License-Identifier: Apache-2.0
"""The addresses that policies mean by names, from what pods were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from agent.fqdn.own_addresses import OwnAddresses
from meshpolicy.dns_name import DnsRule, is_of_service
from meshpolicy.peer import FqdnSelector
from meshpolicy.prefix import Cidr, parse_address

ADDRESSES_OF_SELECTOR: Final = 4096
"""Addresses of one name or pattern of policies: each is an entry of the ipcache, and one or more of a pod's policy."""
_REMEMBERED: Final = 1 << 16


class SelectedNames:
    """Which labels each address has. `touch` notes what may differ, `take` tells it to the policy engine.

    `refused` counts addresses that answers named and no name means here, by the reason.
    """

    def __init__(self, own: OwnAddresses) -> None:
        self._own = own
        self._selectors: frozenset[FqdnSelector] = frozenset()
        self._rules: dict[str, DnsRule] = {}
        self._keys: dict[str, frozenset[str]] = {}  # of names that were asked for
        self._labels: dict[str, frozenset[str]] = {}
        self._count: Counter[str] = Counter()
        self._pending: dict[str, frozenset[str]] = {}
        self.refused: Counter[str] = Counter()
        self.full: set[str] = set()
        """Names and patterns that mean more addresses than they may: what came last is not selected."""

    def is_selected(self, name: str) -> bool:
        """Whether a policy means the name."""
        return bool(self._keys_of(name))

    def labels(self) -> Mapping[str, frozenset[str]]:
        """Every address that a policy means by a name, with the keys of its labels."""
        return self._labels

    def touch(self, address: str, names: Iterable[str]) -> bool:
        """The address has these names; whether a policy means it by one of them."""
        keys = frozenset[str]().union(*(self._keys_of(name) for name in names))
        if keys and (reason := self._own.why_not(address)):
            self.refused[reason] += 1
            keys = frozenset()
        before = self._labels.get(address, frozenset())
        crowded = {key for key in keys - before if self._count[key] >= ADDRESSES_OF_SELECTOR}
        if crowded:
            self.full |= crowded
            self.refused["full"] += 1
            keys -= crowded
        if keys != before:
            self._count.update(keys - before)
            self._count.subtract(before - keys)
            self.full -= {key for key in before - keys if self._count[key] < ADDRESSES_OF_SELECTOR}
            if keys:
                self._labels[address] = keys
            else:
                del self._labels[address]
            self._pending[address] = keys
        return bool(keys)

    def set_selectors(self, selectors: frozenset[FqdnSelector]) -> bool:
        """Policies in force have these names; whether they are others than before: every address must be touched then."""
        if selectors == self._selectors:
            return False
        self._selectors = selectors
        self._rules = {selector.label_key: selector.rule for selector in selectors}
        self._keys.clear()
        self.full &= self._rules.keys()
        return True

    def is_pending(self, addresses: Iterable[str]) -> bool:
        """Whether the policy engine does not know the labels of one of these addresses yet."""
        return not self._pending.keys().isdisjoint(addresses)

    def take(self) -> Mapping[Cidr, frozenset[str]]:
        """What differs since the last call."""
        found, self._pending = self._pending, {}
        return {parse_address(address): keys for address, keys in found.items()}

    def _keys_of(self, name: str) -> frozenset[str]:
        """The labels that an address has because of the name. Names of Services are not of hosts outside."""
        keys = self._keys.get(name)
        if keys is None:
            if len(self._keys) >= _REMEMBERED:
                self._keys.clear()
            is_service = is_of_service(name)
            keys = frozenset(key for key, rule in self._rules.items() if not is_service and rule.matches(name))
            self._keys[name] = keys
        return keys
