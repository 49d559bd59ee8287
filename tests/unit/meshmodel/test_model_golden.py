# SPDX-License-Identifier: Apache-2.0
"""T1-T3: every record we know decodes, and encodes to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshmodel import cluster_config, endpointslice, identity_record, ip, node, service, serviceexport
from meshmodel.identity import NumericIdentity, identity_range
from meshmodel.labels import Label, encode_labels
from meshmodel.names import ClusterId, ServiceName
from meshmodel.node import NodeAddress
from meshmodel.service import RecordPort, Zone

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
CLUSTER = "koornacht"


def read(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def decode_service(name: str) -> service.ClusterService:
    key = {
        "service-zones": "tickets",
        "service-headless": "seats",
        "service-empty": "later",
        "service-dual-stack": "map",
        "service-export-to": "tickets",
        "service-terminating": "tickets",
    }
    return service.decode(f"tour/{key[name]}", read(f"{name}.json"), cluster=CLUSTER, cluster_id=1)


@pytest.mark.parametrize("name", sorted(p.name for p in GOLDEN.iterdir() if p.suffix != ".md"))
def test_every_golden_record_comes_back_byte_for_byte(name: str) -> None:
    data = read(name)
    match name.partition("-")[0].partition(".")[0]:
        case "cluster":
            assert cluster_config.decode(data).encode() == data
        case "service":
            assert decode_service(name.removesuffix(".json")).encode() == data
        case "ip":
            key = {"ip-pod": "10.1.1.7", "ip-pod-ipv6": "fd00:1::7", "ip-no-identity": "10.1.1.8"}
            key |= {"ip-no-node": "10.1.1.10", "ip-network": "192.0.2.0/24"}
            suffix = key[name.removesuffix(".json")]
            record = ip.decode(suffix, data, identities=identity_range(1))
            assert record.encode() == data
            assert record.key_suffix == suffix
        case "node":
            key_suffix = "koornacht-worker" if "full" in name else "koornacht-worker2"
            assert node.decode(key_suffix, data, cluster=CLUSTER, cluster_id=1).encode() == data
        case "identity":
            _, labels = identity_record.decode("70001", data, cluster=CLUSTER, identities=identity_range(1))
            assert encode_labels(labels) == data
        case "serviceexport":
            assert serviceexport.decode("tour/tickets", data, cluster=CLUSTER).encode() == data
        case "endpointslice":
            message = bytes.fromhex(data.decode())
            assert endpointslice.decode_message(message).encode_message() == message
        case other:
            pytest.fail(f"nobody decodes {other}")


def test_a_service_keeps_addresses_ports_zones_and_hostnames() -> None:
    zones = decode_service("service-zones")
    assert (zones.cluster_id, zones.name, zones.shared) == (ClusterId(1), ServiceName("tour", "tickets"), True)
    assert zones.frontends == {"172.20.1.233": {"web": RecordPort("TCP", 80)}}
    assert zones.backends["10.1.2.40"] == {"web": RecordPort("TCP", 8080)}
    assert zones.zones == {"10.1.1.7": Zone("ams-a", ("ams-a",)), "10.1.2.2": Zone("ams-b", ())}
    headless = decode_service("service-headless")
    assert (headless.frontends, headless.hostnames) == ({}, {"10.1.1.9": "seats-0"})
    assert decode_service("service-export-to").export_to == ("tion", "zuid")
    assert zones.export_to is None
    assert decode_service("service-terminating").terminating == {"10.1.2.2", "10.1.2.40"}
    assert not zones.terminating
    assert decode_service("service-dual-stack").backends["fd00:1::7"] == {"http": RecordPort("TCP", 8080)}


def test_equal_services_are_equal_and_a_different_port_is_not() -> None:
    data = read("service-zones.json")
    one = service.decode("tour/tickets", data, cluster=CLUSTER, cluster_id=1)
    assert one == decode_service("service-zones")
    other = service.decode("tour/tickets", data.replace(b"8080", b"8081", 1), cluster=CLUSTER, cluster_id=1)
    assert one != other


def test_a_node_keeps_its_networks_primary_first() -> None:
    found = node.decode("koornacht-worker", read("node-full.json"), cluster=CLUSTER, cluster_id=1)
    assert found.ipv4_pod_cidrs == ("10.1.1.0/24", "10.9.0.0/24")
    assert found.pod_cidrs == ("10.1.1.0/24", "10.9.0.0/24", "fd00:1::/64")
    assert found.addresses[2] == NodeAddress("CiliumInternalIP", "10.1.1.1")


def test_an_ip_record_keeps_prefix_identity_and_pod() -> None:
    record = ip.decode("10.1.1.7", read("ip-pod.json"), identities=identity_range(1))
    assert (record.prefix, record.ip, record.identity) == ("10.1.1.7/32", "10.1.1.7", NumericIdentity(70001))
    assert (record.namespace, record.pod, record.host_ip) == ("tour", "tickets-6b5-x2", "172.18.0.3")
    network = ip.decode("192.0.2.0/24", read("ip-network.json"), identities=identity_range(1))
    assert (network.prefix, network.is_host, [p.name for p in network.named_ports]) == (
        "192.0.2.0/24",
        False,
        ["dns", "web"],
    )


def test_an_identity_keeps_labels_with_equals_signs_and_empty_values() -> None:
    number, labels = identity_record.decode(
        "70001", read("identity-pod.txt"), cluster=CLUSTER, identities=identity_range(1)
    )
    assert number == 70001
    assert labels[-2:] == (Label("reserved", "thing", ""), Label("any", "x", "a=b"))
    assert Label("k8s", "empty", "") in labels


def test_a_service_export_keeps_its_decisions() -> None:
    export = serviceexport.decode("tour/tickets", read("serviceexport.json"), cluster=CLUSTER)
    assert (export.type, export.session_affinity, export.session_affinity_timeout_s) == (
        "ClusterSetIP",
        "ClientIP",
        600,
    )
    assert export.annotations == {"team": "a&b"}


def test_the_slice_vector_decodes_with_and_without_a_declared_size() -> None:
    import zstandard

    message = bytes.fromhex(read("endpointslice.hex").decode())
    for has_size in (True, False):
        frame = zstandard.ZstdCompressor(write_content_size=has_size).compress(message)
        found = endpointslice.decode("shop/cart-x7k2p", frame, cluster="blue", cluster_id=1)
        assert found.service == ServiceName("shop", "cart")
        [endpoint] = found.endpoints
        assert (endpoint.addresses, endpoint.ready, endpoint.serving, endpoint.is_serving) == (
            ("10.11.3.7",),
            True,
            None,
            True,
        )
        assert (endpoint.node_name, endpoint.zone, endpoint.for_zones) == ("blue-w1", "eu-a", ("eu-a",))
        assert [(p.name, p.protocol, p.port) for p in found.ports] == [("http", "TCP", 8080)]
        assert endpointslice.decode("shop/cart-x7k2p", found.encode(), cluster="blue", cluster_id=1) == found
