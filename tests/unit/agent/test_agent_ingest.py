# SPDX-License-Identifier: Apache-2.0
"""Records that are not believed are skipped one by one, counted under their reason, and affect nothing else: T4 to T6."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_mesh_kit import ECHO, FILE, Mesh, PeerStore

from agent.mesh.routes import mesh_problems, peer_rows, refused_networks
from agent.mesh.rows import unlisted_warning
from meshkit.clock import ManualClock
from meshmodel import keys
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.names import ClusterName, ServiceName
from meshpeer.session import SessionOptions
from tests.support import record_keys

SOUTH = ClusterName("south")
OTHER = ServiceName("test", "other")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def mesh(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path, clock)
    async with mesh.running():
        yield mesh


@pytest.fixture
async def south(mesh: Mesh, clock: ManualClock) -> PeerStore:
    store = PeerStore("south", 2, clock)
    await store.fill()
    mesh.add(store)
    await mesh.until(lambda: mesh.state().is_ready)
    return store


def service_json(**changes: object) -> bytes:
    record: dict[str, object] = {
        "cluster": "south",
        "clusterID": 2,
        "namespace": "test",
        "name": "other",
        "frontends": {},
        "backends": {"10.2.0.20": {"": {"Protocol": "TCP", "Port": 80}}},
        "shared": True,
    }
    return json.dumps({**record, **changes}).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{not json", "bad-json"),
        (service_json(cluster="east"), "cluster-mismatch"),
        (service_json(clusterID=3), "id-mismatch"),
        (service_json(name="echo"), "key-mismatch"),
        (service_json(namespace=""), "key-mismatch"),
        (service_json(frontends={"": {}}), "bad-address"),
        (service_json(backends={"10.2.0.300": {"": {"Protocol": "TCP", "Port": 80}}}), "bad-address"),
        (service_json(backends={"fe80::1%eth0": {"": {"Protocol": "TCP", "Port": 80}}}), "bad-address"),
        (service_json(backends={"127.0.0.1": {"": {"Protocol": "TCP", "Port": 80}}}), "address-outside"),
        (service_json(backends={"172.18.0.2": {"": {"Protocol": "TCP", "Port": 80}}}), "address-outside"),
    ],
)
async def test_a_bad_service_is_counted_and_the_others_stay(
    mesh: Mesh, south: PeerStore, value: bytes, reason: str
) -> None:
    await south.put(record_keys.service_key("south", OTHER), value)
    await mesh.until(lambda: bool(mesh.runner.rejections.counts(SOUTH)))
    assert mesh.runner.rejections.counts(SOUTH) == {reason: 1}
    assert mesh.db.backends.get((OTHER, SOUTH)) is None
    assert mesh.backends() == ["10.2.0.9"]
    await south.service("10.2.0.30", name=OTHER)
    await mesh.until(lambda: mesh.db.backends.get((OTHER, SOUTH)) is not None)


async def test_a_record_that_turns_bad_counts_as_absent(mesh: Mesh, south: PeerStore) -> None:
    await south.put(record_keys.service_key("south", ECHO), b"garbage")
    await mesh.until(lambda: mesh.backends() == [])


async def test_an_unshared_record_withdraws_the_cluster(mesh: Mesh, south: PeerStore) -> None:
    await south.put(record_keys.service_key("south", ECHO), south.service_bytes("10.2.0.9", shared=False))
    await mesh.until(lambda: mesh.backends() == [])
    assert mesh.runner.rejections.counts(SOUTH) == {}


@pytest.mark.parametrize(
    ("identity", "expected"),
    [(2 << 16 | 9, 2 << 16 | 9), (0, 0), (3 << 16 | 9, None), (300, None)]
    + [(reserved, None) for reserved in (1, 2, 3, 4, 5, 6, 7, 8)],
)
async def test_a_pods_identity_is_believed_within_the_peers_range_only(
    mesh: Mesh, south: PeerStore, identity: int, expected: int | None
) -> None:
    await south.ip("10.2.0.50", identity)
    await south.ip("10.2.0.51", 2 << 16 | 9)
    await mesh.until(lambda: mesh.db.prefixes.get("10.2.0.51/32") is not None)
    row = mesh.db.prefixes.get("10.2.0.50/32")
    assert (row.identity if row is not None else None) == expected


@pytest.mark.parametrize(
    ("address", "identity", "is_believed"),
    [
        ("172.18.0.9", 1, True),
        ("172.18.0.9", 6, True),
        ("172.18.0.9", 7, False),
        ("10.2.9.3", 4, True),
        ("10.2.9.3", 6, False),
        ("10.2.9.4", 8, True),
        ("10.2.9.4", 4, False),
    ],
)
async def test_reserved_identities_are_for_what_the_node_record_says(
    mesh: Mesh, south: PeerStore, address: str, identity: int, is_believed: bool
) -> None:
    await south.node("s9", "172.18.0.9", "10.2.9.0/24", ipv4_health_ip="10.2.9.3", ipv4_ingress_ip="10.2.9.4")
    await south.ip(address, identity, "172.18.0.9")
    await south.ip("10.2.0.51", 2 << 16 | 9)
    await mesh.until(lambda: mesh.db.prefixes.get("10.2.0.51/32") is not None)
    assert mesh.runner.rejections.counts(SOUTH) == ({} if is_believed else {"reserved-identity": 1})


async def test_a_tunnel_endpoint_must_be_a_node_of_the_peer_and_is_waited_for(mesh: Mesh, south: PeerStore) -> None:
    await south.ip("10.2.9.9", 2 << 16 | 7, "172.18.0.9")
    await mesh.until(lambda: mesh.runner.rejections.counts(SOUTH) == {"unknown-host": 1})
    assert mesh.db.prefixes.get("10.2.9.9/32") is None
    await south.node("s9", "172.18.0.9", "10.2.9.0/24")
    await mesh.until(lambda: mesh.db.prefixes.get("10.2.9.9/32") is not None)
    assert mesh.runner.rejections.counts(SOUTH) == {"unknown-host": 1}


async def test_pods_outside_the_announced_networks_are_believed_where_nobody_else_is(
    mesh: Mesh, south: PeerStore
) -> None:
    """A CNI with blocks of its own: the nodes say 10.2.0.0/24, the pods have other addresses."""
    await south.ip("192.168.219.7", 2 << 16 | 7)
    await south.service("192.168.219.7", "10.2.0.9")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9", "192.168.219.7"])
    assert mesh.db.prefixes.get("192.168.219.7/32") is not None
    assert mesh.runner.rejections.counts(SOUTH) == {}


async def test_one_bad_backend_costs_one_backend(mesh: Mesh, south: PeerStore) -> None:
    await south.service("10.2.0.9", "172.18.0.2", "10.2.0.10")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.10", "10.2.0.9"])
    assert mesh.runner.rejections.counts(SOUTH) == {"address-outside": 1}
    assert "belongs to cluster north" in mesh.runner.rejections.samples(SOUTH)["address-outside"]


async def test_one_bad_backend_of_a_slice_costs_one_backend(tmp_path: Path, clock: ManualClock) -> None:
    mesh = Mesh(tmp_path, clock)
    south = PeerStore("south", 2, clock)
    await south.fill()
    await south.config(endpoint_slices_export_mode="endpointslices-only")
    await south.slice("10.2.0.9", "169.254.169.254")
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.backends() == ["10.2.0.9"])
        assert mesh.runner.rejections.counts(SOUTH) == {"address-outside": 1}


async def test_a_node_that_takes_another_clusters_network_is_refused(
    mesh: Mesh, south: PeerStore, clock: ManualClock
) -> None:
    east = PeerStore("east", 3, clock)
    await east.fill()
    await east.node("e1", "172.18.0.8", "10.2.0.0/16")
    await east.node("e2", "172.18.0.5", "10.3.0.0/24")
    await east.node("e3", "172.18.0.7", "10.4.0.0/24")
    await east.delete(record_keys.node_key("east", "s1"))
    mesh.add(east)
    await mesh.until(lambda: mesh.db.nodes.get((ClusterName("east"), "e3")) is not None)
    assert mesh.runner.rejections.counts(ClusterName("east"))["foreign-network"] == 2
    assert mesh.db.nodes.get((ClusterName("east"), "e2")) is None
    believed = mesh.db.nodes.get((ClusterName("east"), "e1"))
    assert believed is not None
    assert believed.pod_cidrs == ()
    row = mesh.db.prefixes.get("172.18.0.5/32")
    assert row is not None
    assert row.cluster == "south"


async def test_a_peer_cannot_speak_for_another_peers_pod(mesh: Mesh, south: PeerStore, clock: ManualClock) -> None:
    east = PeerStore("east", 3, clock)
    await east.config()
    await east.node("e1", "172.18.0.8", "10.3.0.0/24")
    await east.service("10.2.0.9", name=OTHER)
    await east.ip("10.2.0.9", 3 << 16 | 1, "172.18.0.8")
    await east.canaries()
    await east.beat()
    mesh.add(east)
    await mesh.until(lambda: mesh.state("east").is_ready)
    assert mesh.runner.rejections.counts(ClusterName("east")) == {"address-outside": 2}
    assert mesh.db.backends.get((OTHER, ClusterName("east"))) is None


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (b"k8s:app=x;", "missing-cluster-label"),
        (b"k8s:io.cilium.k8s.policy.cluster=east;", "cluster-mismatch"),
        (b"any:io.cilium.k8s.policy.cluster=south;", None),
    ],
)
async def test_an_identity_must_carry_its_clusters_label(
    mesh: Mesh, south: PeerStore, labels: bytes, reason: str | None
) -> None:
    await south.put(keys.identity_key("south", 2 << 16 | 99), labels)
    await mesh.until(lambda: bool(mesh.runner.rejections.counts(SOUTH)))
    if reason is not None:
        assert mesh.runner.rejections.counts(SOUTH) == {reason: 1}
    assert mesh.db.identities.get(2 << 16 | 99) is None


async def test_an_address_whose_identity_is_not_known_is_unknown_until_it_arrives(mesh: Mesh, south: PeerStore) -> None:
    await south.ip("10.2.0.60", 2 << 16 | 70)
    await mesh.until(lambda: mesh.db.prefixes.get("10.2.0.60/32") is not None)
    row = mesh.db.prefixes.get("10.2.0.60/32")
    assert row is not None
    assert not row.is_known
    await south.identity(2 << 16 | 70, "late")
    await mesh.until(lambda: (r := mesh.db.prefixes.get("10.2.0.60/32")) is not None and r.is_known)
    await south.delete(keys.identity_key("south", 2 << 16 | 70))
    await mesh.until(lambda: (r := mesh.db.prefixes.get("10.2.0.60/32")) is not None and not r.is_known)


async def test_a_storm_of_bad_records_is_one_log_line_a_minute(
    mesh: Mesh, south: PeerStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(50):
            await south.put(record_keys.service_key("south", f"test/bad{number}"), b"{")
        await mesh.until(lambda: mesh.runner.rejections.counts(SOUTH) == {"bad-json": 50})
    assert [r.getMessage() for r in caplog.records].count("record rejected") == 1


async def test_slices_are_preferred_where_set_and_offered(tmp_path: Path, clock: ManualClock) -> None:
    mesh = Mesh(tmp_path, clock, SessionOptions(prefer_slices=True))
    south = PeerStore("south", 2, clock)
    await south.fill()
    await south.config(endpoint_slices_export_mode="services-and-endpointslices")
    record = ClusterEndpointSlice(
        cluster=SOUTH,
        cluster_id=south.cluster_id,
        namespace="test",
        name="echo-1",
        labels={"kubernetes.io/service-name": "echo"},
        endpoints=(
            SliceEndpoint(addresses=("10.2.0.41",), ready=True),
            SliceEndpoint(addresses=("10.2.0.42",), ready=False, serving=True, terminating=True),
            SliceEndpoint(addresses=("10.2.0.43",), ready=False),
        ),
        ports=(SlicePort(port=9090),),
    )
    await south.put(record_keys.endpointslice_key("south", "test", "echo-1"), record.encode())
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        row = mesh.db.backends.get((ECHO, SOUTH))
        assert row is not None
        assert [(b.address, b.condition.value) for b in row.backends] == [
            ("10.2.0.41", "active"),
            ("10.2.0.42", "terminating"),
        ]
        await south.delete(record_keys.endpointslice_key("south", "test", "echo-1"))
        await mesh.until(lambda: mesh.backends() == [])


@pytest.mark.runbook("peer-networks")
async def test_a_node_outside_of_the_list_is_named_with_what_to_run_until_the_list_holds_it(
    mesh: Mesh, clock: ManualClock
) -> None:
    store = PeerStore("south", 2, clock)
    await store.fill()
    mesh.stores["south"] = store
    file = mesh.directory / "south"
    file.write_bytes(FILE % b"south" + b"networks: [10.2.0.0/24]\n")
    mesh.changed.set()
    await mesh.until(lambda: mesh.state().is_ready)
    assert refused_networks(mesh.runner) == ""
    added = {
        "Name": "s9",
        "Cluster": "south",
        "ClusterID": 2,
        "IPAddresses": [{"Type": "InternalIP", "IP": "172.18.0.9"}],
        "IPv4AllocCIDR": {"IP": "10.2.9.0", "Mask": "////AA=="},
    }
    await store.put(record_keys.node_key("south", "s9"), json.dumps(added).encode())
    await mesh.until(lambda: bool(refused_networks(mesh.runner)))
    assert refused_networks(mesh.runner) == (
        "south announces what its entry does not let it own: 10.2.9.0/24 of node s9; if that is its own: "
        "clustermesh connect --destination-context CONTEXT_OF_SOUTH --peer-networks auto"
    )
    assert [row.warnings for row in peer_rows(mesh.runner, clock)] == [
        [unlisted_warning(SOUTH, {"s9": ["10.2.9.0/24"]})]
    ]
    assert any(problem.startswith("networks of peers: south") for problem in mesh_problems(mesh.runner, mesh.db, clock))
    file.write_bytes(FILE % b"south" + b"networks: [10.2.0.0/16]\n")
    mesh.changed.set()
    await mesh.until(lambda: not refused_networks(mesh.runner), within_s=30)
    assert mesh.db.nodes.get((SOUTH, "s9")) is not None
    assert "10.2.9.0/24" in mesh.db.nodes.get((SOUTH, "s9")).pod_cidrs  # type: ignore[union-attr]


@pytest.mark.parametrize(("count", "more"), [(1, ""), (3, ""), (4, " and 1 more"), (9, " and 6 more")])
def test_of_many_networks_that_a_list_refuses_three_are_named(count: int, more: str) -> None:
    said = unlisted_warning(SOUTH, {"s1": [f"10.2.{n}.0/24" for n in range(count)]})
    assert said.count(" of node s1") == min(count, 3)
    assert f"of node s1{more}; if that" in said
