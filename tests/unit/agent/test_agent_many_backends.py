# SPDX-License-Identifier: Apache-2.0
"""A few kilobytes of addresses and ports mean millions of backends: whoever writes them, no more are made than are wanted."""

from __future__ import annotations

import tracemalloc

from agent.loadbalancer.convert import strip_slice
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.record_rows import Reader
from agent.tables import AgentDB
from agent.wanted_backends import WantedBackends
from kube.reflector import Upsert
from meshkit.clock import ManualClock
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.identity import identity_range
from meshmodel.names import ClusterId, ClusterName, ServiceName

SOUTH, SOUTH_ID = ClusterName("south"), ClusterId(2)
NAME = ServiceName("test", "echo")
ADDRESSES = [f"10.2.{n >> 8}.{n & 255}" for n in range(1_000)]
PORTS = 900
WANTED = WantedBackends(most=50)
MOST_BYTES = 8 << 20  # a hundredth of what all 900,000 take


def test_a_peers_record_makes_no_more_than_are_wanted_and_the_service_says_so() -> None:
    record = ClusterEndpointSlice(
        cluster=SOUTH,
        cluster_id=SOUTH_ID,
        namespace=NAME.namespace,
        name="echo-1",
        labels={"kubernetes.io/service-name": NAME.name},
        endpoints=tuple(SliceEndpoint(addresses=(address,), ready=True) for address in ADDRESSES),
        ports=tuple(SlicePort(name=f"p{n}", port=n) for n in range(1, PORTS + 1)),
    ).encode()
    reader = Reader(SOUTH, SOUTH_ID, identity_range(SOUTH_ID), ClusterName("north"), WANTED)
    tracemalloc.start()
    found = reader.endpoint_slice("test/echo-1", record)
    assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    tracemalloc.stop()
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    writer = LoadBalancerWriter(db, max_backends=WANTED.most)
    with db.write():
        writer.set_backends(NAME, SOUTH, SOUTH_ID, found.backends, 0.0)
    row = db.backends.get((NAME, SOUTH))
    assert row is not None
    assert [(b.address, b.port) for b in row.backends] == [("10.2.0.0", n) for n in range(1, 51)]
    assert writer.wanted == WANTED


def test_slices_of_our_own_make_no_more_than_are_wanted() -> None:
    """An API server takes a slice of a thousand endpoints of a hundred addresses, with twenty thousand ports."""
    item = {
        "metadata": {
            "namespace": "test",
            "name": "echo-1",
            "labels": {"kubernetes.io/service-name": "echo"},
        },
        "addressType": "IPv4",
        "ports": [{"name": f"p{n}", "port": n, "protocol": "TCP"} for n in range(1, PORTS + 1)],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in ADDRESSES],
    }
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    source = KubernetesSource(db, LoadBalancerWriter(db, max_backends=WANTED.most), ManualClock())
    tracemalloc.start()
    changes = [Upsert(f"test/echo-{n}", strip_slice(item)) for n in range(5)]
    source.take_slices(changes, lambda: None)
    assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    tracemalloc.stop()
    row = db.backends.get((NAME, ClusterName("north")))
    assert row is not None
    assert [(b.address, b.port) for b in row.backends] == [("10.2.0.0", n) for n in range(1, 51)]
