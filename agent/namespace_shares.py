# SPDX-License-Identifier: Apache-2.0
"""How much each pod or service may have of what a node holds for all namespaces, by what all of them want. Pure.

So the policy map is shared by pods (ADR 60), and the load balancer's memory by services (ADR 57).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

STEPS: Final = 64
"""A share that is smaller than a whole one is one of so many, so that few changes of others change it."""


class NamespaceShares(Generic[K]):
    """While everything fits, each member may have `per_member`.

    While it does not, the namespaces that want least have all they want, and the others equal parts of the rest; of such a
    part the same holds for its members. What the node itself needs comes first.
    """

    def __init__(self, room: int, per_member: int, step: int = 0) -> None:
        """`step`: shares are multiples of it, unless smaller; 0: in sixty-four steps."""
        self._room, self._per_member = room, per_member
        self._step = step or max(1, per_member // STEPS)
        self._wanted: dict[str, dict[K, int]] = {}  # by namespace and member
        self._sums: dict[str, int] = {}
        self._namespace: dict[K, str] = {}
        self._total = 0
        self._most: dict[str, int] = {}  # of each member of a namespace that does not get all it wants

    def want(self, member: K, namespace: str, size: int) -> None:
        """The member wants so much; nothing once it is gone."""
        before = self._namespace.pop(member, None)
        if before is not None:
            self._count(before, -self._wanted[before].pop(member))
            if not self._wanted[before]:
                del self._wanted[before], self._sums[before]
        if size:
            self._namespace[member] = namespace
            wanted = self._wanted.setdefault(namespace, {})[member] = min(size, self._per_member)
            self._count(namespace, wanted)

    def settle(self, of_node: int = 0) -> set[K]:
        """Shares are as everybody wants them now, beside what the node needs; returns whose may differ."""
        room = max(0, self._room - min(of_node, self._per_member))
        before = self._most
        self._most = self._level(room) if self._total > room else {}
        changed = {name for name in before.keys() | self._most.keys() if before.get(name) != self._most.get(name)}
        return {member for name in changed for member in self._wanted.get(name, ())}

    def most(self, member: K) -> int:
        """So much the member may have."""
        return self._most.get(self._namespace.get(member, ""), self._per_member)

    def has_all(self, member: K) -> bool:
        """Whether nobody of its namespace has less than it wants."""
        return not self._most or self._namespace.get(member, "") not in self._most

    def short(self) -> list[tuple[str, int, int]]:
        """Namespaces that do not get all they want: what they want together, and the most that a member has."""
        return [(name, self._sums[name], most) for name, most in sorted(self._most.items()) if name in self._sums]

    def _count(self, namespace: str, more: int) -> None:
        self._sums[namespace] = self._sums.get(namespace, 0) + more
        self._total += more

    def _level(self, room: int) -> dict[str, int]:
        of_each = _fair(self._sums.values(), room)
        step = self._step
        found = {}
        for name, total in self._sums.items():
            if total > of_each:
                most = _fair(self._wanted[name].values(), of_each)
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
