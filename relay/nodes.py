# SPDX-License-Identifier: Apache-2.0
"""This cluster's nodes and namespaces, as Kubernetes has them: where observers are, and what takes part in the mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from flows.methods import PeerFacts, tls_server_name
from flows.words import qualified_name
from kube.client import KubeClient
from kube.reflector import Change, Delete, Reflector, Upsert
from kube.resource import NAMESPACES, NODES, KubeObject
from kubeintent.node import read_node
from kubeintent.pod import read_namespace
from kubeintent.rows import NamespaceIntent, NodeIntent

T = TypeVar("T")


class Nodes:
    """`on_change` is called after each change. A node without an address has no observer."""

    def __init__(self, cluster: str, port: int, on_change: Callable[[], None]) -> None:
        self._cluster, self._port, self._on_change = cluster, port, on_change
        self._rows: dict[str, NodeIntent] = {}

    async def run(self, client: KubeClient) -> None:
        """Until cancelled."""
        await Reflector(client, NODES, strip=_strip_node).run(self.take)

    def take(self, batch: Sequence[Change[NodeIntent | None]]) -> None:
        """What was said of nodes is so from now on."""
        _apply(self._rows, batch, lambda row: row.name)
        self._on_change()

    def observers(self) -> dict[str, PeerFacts]:
        """Where each node's observer is, by its name in flows."""
        found = {}
        for row in self._rows.values():
            if address := row.internal_ip():
                place = f"[{address}]:{self._port}" if ":" in address else f"{address}:{self._port}"
                facts = PeerFacts(place, tls_server_name(self._cluster, row.name))
                found[qualified_name(self._cluster, row.name)] = facts
        return found

    def address(self, node: str) -> str:
        """Of a node by its own name; empty where there is none."""
        row = self._rows.get(node)
        return row.internal_ip() if row is not None else ""


class Namespaces:
    """Which of this cluster's namespaces take part in the mesh."""

    def __init__(self, *, default_global: bool) -> None:
        self._default_global = default_global
        self._rows: dict[str, NamespaceIntent] = {}

    async def run(self, client: KubeClient) -> None:
        """Until cancelled."""
        await Reflector(client, NAMESPACES, strip=self._strip).run(self.take)

    def take(self, batch: Sequence[Change[NamespaceIntent | None]]) -> None:
        """What was said of namespaces is so from now on."""
        _apply(self._rows, batch, lambda row: row.name)

    def is_shared(self, name: str) -> bool:
        """False also for one that is not known."""
        row = self._rows.get(name)
        return row is not None and row.is_global

    def _strip(self, obj: KubeObject) -> NamespaceIntent | None:
        return read_namespace(obj, default_global=self._default_global).row


def _strip_node(obj: KubeObject) -> NodeIntent | None:
    return read_node(obj).row


def _apply(rows: dict[str, T], batch: Sequence[Change[T | None]], name: Callable[[T], str]) -> None:
    for change in batch:
        if isinstance(change, Upsert) and change.obj is not None:
            rows[name(change.obj)] = change.obj
        elif isinstance(change, Delete) and change.obj is not None:
            rows.pop(name(change.obj), None)
