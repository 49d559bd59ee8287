# SPDX-License-Identifier: Apache-2.0
"""Which values of which objects are left out, and how they are named."""

from __future__ import annotations

from typing import Any

import pytest

from kubeintent.cilium import read_cilium_endpoint, read_cilium_identity
from kubeintent.endpoint_slice import read_endpoint_slice
from kubeintent.node import read_cilium_node, read_node
from kubeintent.pod import read_namespace
from kubeintent.service import read_service

NAMED = {"metadata": {"namespace": "shop", "name": "cart"}}


def service(**spec: Any) -> dict[str, Any]:
    return {**NAMED, "spec": {"clusterIP": "10.96.0.1", **spec}}


def slice_of(*addresses: str, family: str = "IPv4", **changes: Any) -> dict[str, Any]:
    return {**NAMED, "addressType": family, "endpoints": [{"addresses": [ip]} for ip in addresses], **changes}


@pytest.mark.parametrize(
    "value", ["010.1.1.3", "not-an-ip", "10.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "fe80::1"]
)
def test_an_external_ip_that_no_api_server_takes_is_left_out_and_named(value: str) -> None:
    read = read_service(service(externalIPs=[value, "192.0.2.1"]))
    assert read.row is not None
    assert read.row.external_ips == ("192.0.2.1",)
    assert len(read.problems) == 1
    assert value in read.problems[0]
    assert read.problems[0].startswith("spec.externalIPs: ")


def test_a_balancer_address_of_mode_proxy_is_not_translated() -> None:
    ingress = [{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "192.0.2.2"}, {"ip": "192.0.2.3", "ipMode": "VIP"}]
    read = read_service({**service(), "status": {"loadBalancer": {"ingress": ingress}}})
    assert read.row is not None
    assert read.row.balancer_ips == ("192.0.2.2", "192.0.2.3")
    assert read.problems == ()


@pytest.mark.parametrize(
    ("family", "value", "why"),
    [
        ("IPv4", "010.1.1.3", "is no IP address"),
        ("IPv4", "fd00::1", "is not IPv4"),
        ("IPv6", "10.0.0.1", "is not IPv6"),
        ("IPv6", "::ffff:10.0.0.1", "is not IPv6"),
        ("IPv4", "127.0.0.1", "is a loopback address"),
        ("IPv4", "169.254.0.1", "is a link-local address"),
        ("IPv4", "224.0.0.5", "is a link-local multicast address"),
        ("IPv4", "0.0.0.0", "is the unspecified address"),
        ("IPv6", "::1", "is a loopback address"),
        ("IPv6", "fe80::1", "is a link-local address"),
        ("IPv6", "ff02::1", "is a link-local multicast address"),
        ("IPv6", "::", "is the unspecified address"),
    ],
)
def test_a_slice_keeps_every_other_endpoint(family: str, value: str, why: str) -> None:
    good = "10.1.1.4" if family == "IPv4" else "fd00::4"
    read = read_endpoint_slice(slice_of(value, good, family=family))
    assert read.row is not None
    assert [ip for endpoint in read.row.endpoints for ip in endpoint.addresses] == [good]
    assert len(read.problems) == 1
    assert why in read.problems[0]


def test_ports_without_number_mean_all_ports_in_a_slice_and_nothing_in_a_service() -> None:
    ports = [
        {"name": "a", "port": 80},
        {"name": "b"},
        {"name": "c", "port": 0},
        {"name": "d", "protocol": "QUIC", "port": 1},
    ]
    in_slice, in_service = read_endpoint_slice(slice_of(ports=ports)), read_service(service(ports=ports))
    assert in_slice.row is not None
    assert in_service.row is not None
    assert [(port.name, port.port) for port in in_slice.row.ports] == [("a", 80), ("b", None)]
    assert [(port.name, port.port) for port in in_service.row.ports] == [("a", 80)]
    assert "ports: b has no number" in in_service.problems
    assert len(in_slice.problems) == 2


@pytest.mark.parametrize(
    "owner", ["endpointslice-mesh-controller.cilium.io", "endpointslice-mesh-controller.clustermesh.io"]
)
def test_slices_that_a_mesh_mirrored_are_from_the_mesh_whichever_mesh(owner: str) -> None:
    labels = {"endpointslice.kubernetes.io/managed-by": owner}
    read = read_endpoint_slice({**slice_of("10.1.1.4"), "metadata": {**NAMED["metadata"], "labels": labels}})
    assert read.row is not None
    assert read.row.from_mesh


def test_the_networks_of_every_pool_follow_the_nodes_own() -> None:
    pools = {
        "allocated": [
            {"pool": "a", "cidrs": ["10.2.0.0/27", "10.2.0.64/27"]},
            {"pool": "b", "cidrs": ["10.3.0.7/27", "x"]},
        ]
    }
    read = read_cilium_node(
        {"metadata": {"name": "n"}, "spec": {"ipam": {"podCIDRs": ["10.1.0.0/24"], "pools": pools}}}
    )
    assert read.row is not None
    assert read.row.pod_cidrs == ("10.1.0.0/24", "10.2.0.0/27", "10.2.0.64/27", "10.3.0.0/27")
    assert read.problems == ("spec.ipam: 'x' is no network",)


def test_a_node_address_that_is_none_costs_that_address() -> None:
    listed = [{"type": "InternalIP", "address": "172.18.0.300"}, {"type": "InternalIP", "address": "172.18.0.3"}]
    read = read_node({"metadata": {"name": "n"}, "status": {"addresses": listed}})
    assert read.row is not None
    assert read.row.addresses == (("InternalIP", "172.18.0.3"),)
    assert len(read.problems) == 1


def test_an_identity_with_a_label_that_is_no_text_is_no_identity() -> None:
    """With a label less it would be another identity."""
    read = read_cilium_identity({"metadata": {"name": "66000"}, "security-labels": {"k8s:a": "b", "k8s:c": 1}})
    assert read.row is None
    assert read.problems


def test_named_ports_of_an_endpoint_are_sorted() -> None:
    ports = [
        {"name": "web", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "", "port": 1},
    ]
    read = read_cilium_endpoint({**NAMED, "status": {"named-ports": ports}})
    assert read.row
    assert read.row[0].named_ports == (("dns", 53, "UDP"), ("web", 80, "TCP"))


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (None, True, True),
        (None, False, False),
        ("true", False, True),
        ("TRUE", False, True),
        ("false", True, False),
        ("x", True, False),
    ],
)
def test_a_namespace_takes_part_as_it_says_else_by_the_clusters_default(
    annotation: str | None, default: bool, expected: bool
) -> None:
    annotations = {} if annotation is None else {"clustermesh.cilium.io/global": annotation}
    read = read_namespace({"metadata": {"name": "shop", "annotations": annotations}}, default_global=default)
    assert read.row is not None
    assert read.row.is_global is expected


def test_many_problems_are_told_by_their_number() -> None:
    read = read_endpoint_slice(slice_of(*(f"10.0.0.{number}" for number in range(300, 400))))
    assert len(read.problems) == 16
    assert read.problems[-1] == "85 more values were left out"
