# SPDX-License-Identifier: Apache-2.0
"""What node records wait for: Calico's blocks for a while, as they say where pods are; nothing where Cilium says so.

And what keeps one whose Node object is gone: the pods that run on there.
"""

from __future__ import annotations

from clustermesh_apiserver.convert.exporter import MAX_BLOCKS_WAIT_S, NodeExporter
from clustermesh_apiserver.tables import IntentTable, Tables
from kubeintent.rows import NodeIntent, PodIntent
from meshmodel.names import ClusterId, ClusterName


class Sink:
    """What is said, in order; a removed record is None."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, bytes | None]] = []

    def upsert(self, key: bytes, value: bytes) -> None:
        self.said.append((key, value))

    def delete(self, key: bytes) -> None:
        self.said.append((key, None))

    def mark_synced(self) -> None:
        pass


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


def pod(name: str, *ips: str) -> PodIntent:
    return PodIntent("shop", name, "172.18.0.3", ips, (), "default", node="n1", uses_host_network=not ips)


def test_the_record_of_a_node_object_that_is_gone_stays_while_its_pods_do() -> None:
    """A kubelet that registers again makes the same object anew: connections of its pods go on meanwhile."""
    tables, sink = Tables(), Sink()
    exporter = NodeExporter(tables, sink, ClusterName("north"), ClusterId(1), now=lambda: 0.0)
    for table in (tables.nodes, tables.pods, tables.blocks):
        table.end_listing()
    node = NodeIntent("n1", (("InternalIP", "172.18.0.3"),), ("10.1.1.0/24",), (), "kubernetes")
    tables.nodes.put("n1", node)
    tables.pods.put("shop/a", pod("a", "10.1.1.7"))
    tables.pods.put("shop/proxy", pod("proxy"))

    def look() -> list[tuple[bytes, bytes | None]]:
        exporter.touch(["n1"])
        exporter.flush(10)
        said, sink.said = sink.said, []
        return said

    ((key, value),) = before = look()
    assert (key, value is not None) == (b"n1", True)
    tables.nodes.delete("n1")
    assert look() == []
    tables.nodes.put("n1", node)
    assert look() == before
    tables.nodes.delete("n1")
    tables.pods.delete("shop/a")
    assert look() == [(b"n1", None)], "what runs on the host network has no overlay"
