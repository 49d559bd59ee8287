# SPDX-License-Identifier: Apache-2.0
"""How many entries of the node's policy map each pod may have, by what the pods of all namespaces want (ADR 60). Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

STEPS: Final = 64
"""A share that is smaller than a whole one is one of so many, so that few changes of others change it."""


class MapShares:
    """While everything fits, each pod may have `per_pod`.

    While it does not, the namespaces that want least have all they want, and the others equal parts of the rest; of such a
    part the same holds for its pods. The node has its entries first.
    """

    def __init__(self, entries: int, per_pod: int) -> None:
        self._entries, self._per_pod = entries, per_pod
        self._wanted: dict[str, dict[str, int]] = {}  # by namespace and address
        self._namespace: dict[str, str] = {}
        self._total = 0
        self._most: dict[str, int] = {}  # of each pod of a namespace that does not get all it wants

    def want(self, address: str, namespace: str, size: int) -> None:
        """The policy of this pod has so many entries; none once it is gone."""
        before = self._namespace.pop(address, None)
        if before is not None:
            self._total -= self._wanted[before].pop(address)
            if not self._wanted[before]:
                del self._wanted[before]
        if size:
            self._namespace[address] = namespace
            self._wanted.setdefault(namespace, {})[address] = wanted = min(size, self._per_pod)
            self._total += wanted

    def settle(self, of_node: int) -> set[str]:
        """Shares are as everybody wants them now, beside so many entries of the node; returns whose may differ."""
        room = max(0, self._entries - min(of_node, self._per_pod))
        before = self._most
        self._most = self._level(room) if self._total > room else {}
        changed = {name for name in before.keys() | self._most.keys() if before.get(name) != self._most.get(name)}
        return {address for name in changed for address in self._wanted.get(name, ())}

    def most(self, address: str) -> int:
        """So many entries the pod may have."""
        return self._most.get(self._namespace.get(address, ""), self._per_pod)

    def _level(self, room: int) -> dict[str, int]:
        of_each = _fair([sum(pods.values()) for pods in self._wanted.values()], room)
        step = max(1, self._per_pod // STEPS)
        found = {}
        for name, pods in self._wanted.items():
            if sum(pods.values()) > of_each:
                most = _fair(pods.values(), of_each)
                found[name] = max(1, most - most % step if most > step else most)
        return found


def _fair(wanted: Collection[int], room: int) -> int:
    """The most that one may have: who wants less has it, and the others equal parts of what is left."""
    left = room
    for place, size in enumerate(sorted(wanted)):
        part = left // (len(wanted) - place)
        if size > part:
            return part
        left -= size
    return room
