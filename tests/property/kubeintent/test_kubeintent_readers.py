# SPDX-License-Identifier: Apache-2.0
"""Whatever an object holds: its reader ends with a row of canonical values, or says that the object has no name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeintent.cilium import read_cilium_endpoint, read_cilium_endpoint_slice, read_cilium_identity
from kubeintent.endpoint_slice import read_endpoint_slice
from kubeintent.node import read_calico_block, read_cilium_node, read_node
from kubeintent.pod import read_namespace, read_pod
from kubeintent.read import MAX_PROBLEMS, Read, UnreadableError
from kubeintent.rows import (
    BlockIntent,
    EndpointIntent,
    ExportIntent,
    IdentityIntent,
    NamespaceIntent,
    NodeIntent,
    PodIntent,
    Port,
    ServiceIntent,
    SliceEndpointIntent,
    SliceIntent,
)
from kubeintent.service import read_service
from kubeintent.service_export import read_service_export
from meshmodel.address import canonical_ip, canonical_prefix

META = {
    "namespace": "shop",
    "name": "66000",
    "uid": "u",
    "labels": {"kubernetes.io/service-name": "cart"},
    "annotations": {"service.cilium.io/global": "true"},
    "creationTimestamp": "2026-03-02T09:15:00Z",
}
NETWORKING = {"node": "172.18.0.2", "addressing": [{"ipv4": "10.1.0.1", "ipv6": "fd00::1"}]}
NAMED = [{"name": "http", "port": 80, "protocol": "TCP"}]
EXAMPLES: dict[Callable[[dict[str, Any]], Read[Any]], dict[str, Any]] = {
    read_service: {
        "metadata": META,
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "h2c"}],
            "externalIPs": ["192.0.2.1"],
            "selector": {"app": "cart"},
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}, {"hostname": "x"}]}},
    },
    read_endpoint_slice: {
        "metadata": META,
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.1.0.1", "10.1.0.2"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "hostname": "h",
                "nodeName": "n",
                "zone": "z",
                "hints": {"forZones": [{"name": "z"}]},
            }
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "any"}],
    },
    read_namespace: {"metadata": META},
    read_pod: {
        "metadata": META,
        "spec": {
            "hostNetwork": False,
            "serviceAccountName": "cart",
            "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "UDP"}]}],
        },
        "status": {"phase": "Running", "hostIP": "172.18.0.2", "podIPs": [{"ip": "10.1.0.1"}], "podIP": "10.1.0.1"},
    },
    read_node: {
        "metadata": META,
        "spec": {"podCIDRs": ["10.1.0.0/24"], "podCIDR": "10.1.0.0/24"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "Hostname", "address": "n"}],
            "nodeInfo": {"bootID": "b"},
        },
    },
    read_cilium_node: {
        "metadata": META,
        "spec": {
            "addresses": [{"type": "CiliumInternalIP", "ip": "10.1.0.1"}],
            "ipam": {"podCIDRs": ["10.1.0.0/24"], "pools": {"allocated": [{"pool": "p", "cidrs": ["10.2.0.0/27"]}]}},
            "health": {"ipv4": "10.1.0.9", "ipv6": "fd00::9"},
            "ingress": {"ipv4": "10.1.0.8"},
            "encryption": {"key": 3},
            "nodeidentity": 7,
            "bootid": "b",
        },
    },
    read_calico_block: {"metadata": META, "spec": {"affinity": "host:n1", "cidr": "10.1.0.64/26", "deleted": False}},
    read_cilium_endpoint: {
        "metadata": META,
        "status": {
            "identity": {"id": 66000},
            "networking": NETWORKING,
            "encryption": {"key": 3},
            "service-account": "cart",
            "named-ports": NAMED,
        },
    },
    read_cilium_endpoint_slice: {
        "metadata": META,
        "namespace": "shop",
        "endpoints": [{"name": "cart", "id": 66000, "networking": NETWORKING, "named-ports": NAMED}],
    },
    read_cilium_identity: {"metadata": META, "security-labels": {"k8s:app": "cart"}},
    read_service_export: {"metadata": META, "spec": {"exportedLabels": {"a": "b"}, "exportedAnnotations": {}}},
}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        [
            "010.1.1.3",
            "not-an-ip",
            "FD00::7",
            "fe80::1%eth0",
            "::ffff:10.0.0.1",
            "127.0.0.1",
            "10.0.0.0/33",
            "tcp",
            "80",
        ]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in an object, itself not included."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def check_port(port: Port) -> None:
    assert port.protocol in ("TCP", "UDP", "SCTP")
    assert port.port is None or (type(port.port) is int and 1 <= port.port <= 65535)


def check_texts(*values: Any) -> None:
    assert all(isinstance(value, str) for value in values)


def check_pairs(pairs: Any) -> None:
    assert list(pairs) == sorted(pairs)
    for key, value in pairs:
        check_texts(key, value)


def check(row: Any) -> None:  # noqa: C901 - one arm per kind of row
    match row:
        case None:
            pass
        case ServiceIntent():
            for ip in (*row.cluster_ips, *row.external_ips, *row.balancer_ips):
                assert canonical_ip(ip) == ip
            for port in row.ports:
                check_port(port)
                assert port.port is not None
            assert row.session_affinity in ("None", "ClientIP")
            assert 0 <= row.affinity_timeout_s <= 86_400
            check_pairs(row.labels)
            check_pairs(row.selector)
        case SliceIntent():
            assert row.address_type in ("", "IPv4", "IPv6", "FQDN")
            for port in row.ports:
                check_port(port)
            for endpoint in row.endpoints:
                check(endpoint)
                assert all((":" in ip) == (row.address_type == "IPv6") for ip in endpoint.addresses)
        case SliceEndpointIntent():
            assert all(canonical_ip(ip) == ip for ip in row.addresses)
            assert not any(ip.startswith(("127.", "169.254.", "fe80:")) or ip in ("::", "::1") for ip in row.addresses)
            assert all(value in (None, True, False) for value in (row.ready, row.serving, row.terminating))
            check_texts(row.hostname, row.node_name, row.zone, *row.for_zones)
        case NamespaceIntent():
            assert type(row.is_global) is bool
            check_pairs(row.labels)
        case PodIntent() | EndpointIntent():
            assert all(canonical_ip(ip) == ip for ip in row.ips)
            assert row.host_ip == "" or canonical_ip(row.host_ip) == row.host_ip
            check_texts(row.namespace, row.name, row.service_account)
            for name, number, protocol in row.named_ports:
                check_port(Port(name, protocol, number))
            if isinstance(row, EndpointIntent):
                assert type(row.identity) is int
                assert 0 <= row.identity < 1 << 32
                assert 0 <= row.encryption_key <= 255
        case NodeIntent():
            for kind, ip in row.addresses:
                check_texts(kind)
                assert canonical_ip(ip) == ip
            assert all(canonical_prefix(cidr) == cidr for cidr in row.pod_cidrs)
            for first, second in (row.health_ips, row.ingress_ips):
                assert first == "" or ("." in first and canonical_ip(first) == first)
                assert second == "" or (":" in second and canonical_ip(second) == second)
            check_texts(row.boot_id, row.wireguard_key)
        case BlockIntent():
            assert canonical_prefix(row.cidr) == row.cidr
            check_texts(row.node)
            assert row.node
        case IdentityIntent():
            assert 0 <= row.number < 10**10
            for label in row.labels:
                check_texts(label.source, label.key, label.value)
        case ExportIntent():
            check_texts(row.created)
            check_pairs(row.labels)
        case tuple():
            for one in row:
                check(one)
        case _:
            raise AssertionError(row)


@pytest.mark.parametrize("reader", EXAMPLES, ids=lambda reader: reader.__name__)
def test_a_good_object_has_a_row_and_no_problem(reader: Callable[[dict[str, Any]], Read[Any]]) -> None:
    read = reader(copy.deepcopy(EXAMPLES[reader]))
    check(read.row)
    assert read.row
    assert read.problems == ()


@pytest.mark.parametrize("reader", EXAMPLES, ids=lambda reader: reader.__name__)
@given(data=st.data())
def test_one_bad_value_costs_that_value(reader: Callable[[dict[str, Any]], Read[Any]], data: st.DataObject) -> None:
    """Law: any value at any place gives canonical rows or UnreadableError, and few problems."""
    obj = copy.deepcopy(EXAMPLES[reader])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(obj))))
        where = obj
        for step in path[:-1]:
            where = where[step]
        where[path[-1]] = data.draw(JSON)
    try:
        read = reader(obj)
    except UnreadableError:
        return
    check(read.row)
    assert len(read.problems) <= MAX_PROBLEMS
    check_texts(*read.problems, read.uid)


@pytest.mark.parametrize("reader", EXAMPLES, ids=lambda reader: reader.__name__)
@given(obj=st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_any_object_is_read_or_has_no_name(reader: Callable[[dict[str, Any]], Read[Any]], obj: dict[str, Any]) -> None:
    """Law: no other exception, whatever the object is."""
    try:
        check(reader(obj).row)
    except UnreadableError:
        return
