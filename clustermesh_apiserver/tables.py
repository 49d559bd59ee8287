# SPDX-License-Identifier: Apache-2.0
"""Rows of what Kubernetes objects say, kind by kind, and the keys that changed since the exporters last looked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from kubeintent.confirmation import AgentWord
from kubeintent.rows import (
    BlockIntent,
    EndpointIntent,
    ExportIntent,
    IdentityIntent,
    NamespaceIntent,
    NodeIntent,
    PodIntent,
    ServiceIntent,
    SliceIntent,
)

R = TypeVar("R")

_NONE: frozenset[str] = frozenset()


class IntentTable(Generic[R]):
    """The rows of one kind by object key; `synced` once everything that exists has been reported.

    `group_of` sorts rows into groups (a namespace, a service) that can be re-evaluated together, and `node_of` into nodes; a
    row without one gives None.
    """

    def __init__(
        self,
        name: str,
        group_of: Callable[[R], str | None] | None = None,
        node_of: Callable[[R], str | None] | None = None,
    ) -> None:
        self.name = name
        self.synced = False
        self._unconfirmed: dict[str, None] = {}
        self._rows: dict[str, R] = {}
        self._groups, self._nodes = _Groups(group_of), _Groups(node_of)

    def put(self, key: str, row: R) -> bool:
        """The table holds this row; False if it did already."""
        self._unconfirmed.pop(key, None)
        old = self._rows.get(key)
        if old == row:
            return False
        self._groups.move(key, old, row)
        self._nodes.move(key, old, row)
        self._rows[key] = row
        return True

    def delete(self, key: str) -> R | None:
        """The table holds no such row; returns what it held."""
        old = self._rows.pop(key, None)
        self._groups.move(key, old, None)
        self._nodes.move(key, old, None)
        return old

    def begin_again(self, also: Iterable[str] = ()) -> None:
        """Another listing fills the table: its rows, and the keys of `also`, are unconfirmed until it is complete."""
        self.synced = False
        self._unconfirmed |= dict.fromkeys([*also, *self._rows])

    def end_listing(self) -> list[tuple[str, R | None]]:
        """The listing is complete: unconfirmed rows are gone; returns their keys, and the rows where there were any."""
        gone = [(key, self.delete(key)) for key in self._unconfirmed]
        self._unconfirmed.clear()
        self.synced = True
        return gone

    def clear(self) -> None:
        """The table is empty and waits for a listing."""
        self.synced = False
        self._rows.clear()
        self._groups.clear()
        self._nodes.clear()
        self._unconfirmed.clear()

    def get(self, key: str) -> R | None:
        return self._rows.get(key)

    def keys(self) -> Iterable[str]:
        return self._rows.keys()

    def rows(self) -> Iterable[R]:
        return self._rows.values()

    def items(self) -> Iterable[tuple[str, R]]:
        return self._rows.items()

    def in_group(self, group: str) -> Iterable[str]:
        """The keys of one group's rows."""
        return self._groups.members(group)

    def on_node(self, node: str) -> Iterable[str]:
        """The keys of one node's rows."""
        return self._nodes.members(node)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def dump(self) -> str:
        """The whole table as text, the same for the same rows."""
        lines = [f"{key} {row}" for key, row in sorted(self._rows.items())]
        return "\n".join([f"{self.name} synced={self.synced} rows={len(lines)}", *lines])


class _Groups(Generic[R]):
    """The keys of rows, by what the rows have in common."""

    def __init__(self, group_of: Callable[[R], str | None] | None) -> None:
        self._group_of = group_of
        self._members: dict[str, set[str]] = {}

    def members(self, group: str) -> Iterable[str]:
        return self._members.get(group, _NONE)

    def clear(self) -> None:
        self._members.clear()

    def move(self, key: str, old: R | None, new: R | None) -> None:
        """The key's row was the old one and is the new one."""
        if self._group_of is None:
            return
        before = self._group_of(old) if old is not None else None
        after = self._group_of(new) if new is not None else None
        if before == after:
            return
        if before is not None:
            members = self._members[before]
            members.discard(key)
            if not members:
                del self._members[before]
        if after is not None:
            self._members.setdefault(after, set()).add(key)


class Tables:
    """Everything this program knows of its own cluster.

    `is_cilium` if nodes and addresses come from Cilium's objects, else they come from nodes and pods.
    """

    def __init__(self) -> None:
        self.is_cilium = False
        self.namespaces: IntentTable[NamespaceIntent] = IntentTable("namespaces")
        self.services: IntentTable[ServiceIntent] = IntentTable("services", lambda row: row.namespace)
        self.slices: IntentTable[SliceIntent] = IntentTable("slices", _service_of)
        self.nodes: IntentTable[NodeIntent] = IntentTable("nodes")
        self.pods: IntentTable[PodIntent] = IntentTable("pods", lambda row: row.namespace, lambda row: row.node or None)
        self.blocks: IntentTable[BlockIntent] = IntentTable("blocks", node_of=lambda row: row.node)
        self.endpoints: IntentTable[tuple[EndpointIntent, ...]] = IntentTable("endpoints", _namespace_of)
        self.identities: IntentTable[IdentityIntent] = IntentTable("identities", lambda row: row.namespace)
        self.confirmations: IntentTable[AgentWord] = IntentTable("confirmations", node_of=lambda row: row.node)
        self.exports: IntentTable[ExportIntent] = IntentTable("exports", lambda row: row.namespace)

    def dump(self) -> str:
        """All tables as text, the same for the same rows."""
        return "\n".join(table.dump() for table in vars(self).values() if isinstance(table, IntentTable))


def _service_of(row: SliceIntent) -> str | None:
    return f"{row.namespace}/{row.service}" if row.service else None


def _namespace_of(row: tuple[EndpointIntent, ...]) -> str | None:
    return row[0].namespace if row else None
