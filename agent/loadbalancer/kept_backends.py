# SPDX-License-Identifier: Apache-2.0
"""Backends that no service selects any more, whose map entries stay so that open connections keep working. Pure.

They are kept in the order in which they were deselected; when the backend map is full, the registry deletes the oldest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from agent.tables import Target
from meshmodel.names import ServiceName

K = TypeVar("K")


class Holder(NamedTuple):
    """The service that selected the backend last, and the pod that had its address then.

    `service` is None and `pod` empty for an entry that the agent found in the map when it started.
    """

    service: ServiceName | None = None
    pod: str = ""


class KeptBackends:
    """Targets in the order in which they were deselected, found by address and by service."""

    def __init__(self) -> None:
        self._holders: dict[Target, Holder] = {}
        self._by_address: dict[str, set[Target]] = {}
        self._by_service: dict[ServiceName, set[Target]] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, target: Target) -> bool:
        return target in self._holders

    def __iter__(self) -> Iterator[Target]:
        return iter(self._holders)

    def holder(self, target: Target) -> Holder:
        return self._holders[target]

    def put(self, target: Target, holder: Holder) -> None:
        """The target is kept; one that was kept already keeps its place in the order."""
        self._unlink(target)
        self._holders[target] = holder
        self._by_address.setdefault(target.address, set()).add(target)
        if holder.service is not None:
            self._by_service.setdefault(holder.service, set()).add(target)

    def discard(self, target: Target) -> None:
        """The target is used again, or gone."""
        self._unlink(target)
        self._holders.pop(target, None)

    def oldest(self, number: int) -> list[Target]:
        return list(islice(self._holders, number))

    def at_address(self, address: str) -> list[Target]:
        return sorted(self._by_address.get(address, ()))

    def of_service(self, name: ServiceName) -> list[Target]:
        return sorted(self._by_service.get(name, ()))

    def _unlink(self, target: Target) -> None:
        holder = self._holders.get(target)
        if holder is None:
            return
        _discard(self._by_address, target.address, target)
        if holder.service is not None:
            _discard(self._by_service, holder.service, target)


def _discard(index: dict[K, set[Target]], value: K, target: Target) -> None:
    found = index[value]
    found.discard(target)
    if not found:
        del index[value]
