# SPDX-License-Identifier: Apache-2.0
"""What node records wait for: Calico's blocks for a while, as they say where pods are; nothing where Cilium says so."""

from __future__ import annotations

from clustermesh_apiserver.convert.exporter import MAX_BLOCKS_WAIT_S, NodeExporter
from clustermesh_apiserver.tables import IntentTable, Tables
from meshmodel.names import ClusterId, ClusterName


class NoSink:
    def upsert(self, key: bytes, value: bytes) -> None:
        raise AssertionError(key)

    def delete(self, key: bytes) -> None:
        raise AssertionError(key)

    def mark_synced(self) -> None:
        raise AssertionError


def test_blocks_are_waited_for_once_nodes_and_pods_are_listed_and_not_for_ever() -> None:
    tables, now_s = Tables(), 100.0
    exporter = NodeExporter(tables, NoSink(), ClusterName("north"), ClusterId(1), now=lambda: now_s)
    assert exporter.needs == (tables.nodes, tables.pods)
    tables.nodes.end_listing()
    now_s += 2 * MAX_BLOCKS_WAIT_S  # the wait begins when blocks are all that is missing
    assert exporter.needs == (tables.nodes, tables.pods)
    tables.pods.end_listing()
    assert exporter.needs == (tables.blocks,)
    now_s += MAX_BLOCKS_WAIT_S - 0.1
    assert exporter.needs == (tables.blocks,)
    now_s += 0.1
    assert exporter.needs == (tables.nodes, tables.pods)


def test_listed_blocks_are_not_waited_for_and_ciliums_nodes_need_nothing_else() -> None:
    tables = Tables()
    exporter = NodeExporter(tables, NoSink(), ClusterName("north"), ClusterId(1), now=lambda: 0.0)
    listed: tuple[IntentTable[object], ...] = (tables.nodes, tables.pods, tables.blocks)  # type: ignore[assignment]
    for table in listed:
        table.end_listing()
    assert exporter.needs == (tables.nodes, tables.pods)
    tables.is_cilium = True
    assert exporter.needs == (tables.nodes,)
