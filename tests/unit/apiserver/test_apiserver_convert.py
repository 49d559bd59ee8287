# SPDX-License-Identifier: Apache-2.0
"""From a Service and its slices to one record, and who speaks for an address that two pods claim."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from clustermesh_apiserver.convert.endpoint_slice import convert_slice
from clustermesh_apiserver.convert.owner_queue import OwnerQueue
from clustermesh_apiserver.convert.service import convert_service, is_shared
from clustermesh_apiserver.problems import problems_of
from kubeintent.rows import NamespaceIntent, Port, ServiceIntent, SliceEndpointIntent, SliceIntent
from meshmodel import endpointslice
from meshmodel.annotations import parse_service_annotations
from meshmodel.errors import RecordError
from meshmodel.names import ClusterId, ClusterName
from meshmodel.service import ClusterService, decode

SHOP = NamespaceIntent("shop", is_global=True, labels=())
HTTP = Port("http", "TCP", 8080)


def service(*, headless: bool = False, external_name: bool = False, other_proxy: bool = False) -> ServiceIntent:
    return ServiceIntent(
        namespace="shop",
        name="cart",
        uid="u",
        annotations=parse_service_annotations({"service.cilium.io/global": "true"}),
        cluster_ips=("10.96.20.4", "fd00::1"),
        ports=(Port("http", "TCP", 80),),
        labels=(),
        selector=(),
        headless=headless,
        external_name=external_name,
        other_proxy=other_proxy,
    )


def piece(
    name: str, *endpoints: SliceEndpointIntent, ports: tuple[Port, ...] = (HTTP,), family: str = "IPv4"
) -> SliceIntent:
    return SliceIntent("shop", name, "cart", family, endpoints, ports)


def record(*slices: SliceIntent, of: ServiceIntent | None = None) -> ClusterService:
    return convert_service(of or service(), slices, cluster=ClusterName("blue"), cluster_id=ClusterId(7))


def test_an_address_in_two_slices_keeps_the_ports_of_both_in_any_order() -> None:
    """T22: Cilium keeps the ports of one of them only."""
    one = piece("cart-a", SliceEndpointIntent(("10.11.9.1",)), ports=(HTTP,))
    two = piece("cart-b", SliceEndpointIntent(("10.11.9.1",)), ports=(Port("dns", "UDP", 53),))
    for slices in itertools.permutations([one, two]):
        assert set(record(*slices).backends["10.11.9.1"]) == {"http", "dns"}
    assert record(one, two).encode() == record(two, one).encode()


@pytest.mark.parametrize(("ready", "serving", "terminating"), list(itertools.product([None, True, False], repeat=3)))
def test_an_endpoint_is_published_unless_it_is_neither_ready_nor_serving(
    ready: bool | None, serving: bool | None, terminating: bool | None
) -> None:
    """All of the matrix; one that does not say is ready and serving, as in Cilium."""
    found = record(
        piece("cart-a", SliceEndpointIntent(("10.11.9.1",), ready=ready, serving=serving, terminating=terminating))
    )
    expected = not (ready is False and serving is False)
    assert ("10.11.9.1" in found.backends) is expected


def test_every_condition_travels_in_a_slice() -> None:
    conditions = list(itertools.product([None, True, False], repeat=3))
    endpoints = [SliceEndpointIntent((f"10.11.9.{n}",), *one) for n, one in enumerate(conditions, 1)]
    value = convert_slice(piece("cart-a", *endpoints), service(), cluster=ClusterName("blue"), cluster_id=ClusterId(7))
    assert value is not None
    found = endpointslice.decode("shop/cart-a", value, cluster="blue", cluster_id=7)
    assert [(e.ready, e.serving, e.terminating) for e in found.endpoints] == conditions


def test_both_families_and_no_foreign_or_named_endpoints_are_published() -> None:
    mesh_made = SliceIntent(
        "shop", "echo", "cart", "IPv4", (SliceEndpointIntent(("10.99.0.1",)),), (HTTP,), from_mesh=True
    )
    names = piece("names", family="FQDN")
    found = record(piece("a", SliceEndpointIntent(("10.11.9.1",))), piece("b", SliceEndpointIntent(("fd00::7",)), family="IPv6"),
                   mesh_made, names)  # fmt: skip
    assert set(found.backends) == {"10.11.9.1", "fd00::7"}
    assert set(found.frontends) == {"10.96.20.4", "fd00::1"}


def test_a_headless_service_has_no_frontends_and_an_external_name_is_not_published() -> None:
    assert record(of=service(headless=True)).frontends == {}
    assert is_shared(service(), SHOP)
    assert not is_shared(service(external_name=True), SHOP)
    assert not is_shared(service(other_proxy=True), SHOP)
    assert not is_shared(service(), NamespaceIntent("shop", is_global=False, labels=()))


@pytest.mark.parametrize("first_to_leave", ["old", "new"])
def test_an_address_of_two_pods_stays_until_both_are_gone(first_to_leave: str) -> None:
    """T30: the late delete of the old pod must not take the new pod's record away."""
    queue = OwnerQueue()
    assert queue.set_claims("old", {b"10.1.1.7": b"old record"}) == {b"10.1.1.7": b"old record"}
    assert queue.set_claims("new", {b"10.1.1.7": b"new record"}) == {b"10.1.1.7": b"old record"}
    last = "new" if first_to_leave == "old" else "old"
    assert queue.set_claims(first_to_leave, {}) == {b"10.1.1.7": f"{last} record".encode()}
    assert queue.set_claims(last, {}) == {b"10.1.1.7": None}
    assert len(queue) == 0
    assert queue.set_claims(last, {}) == {}


def test_losing_one_family_takes_back_that_address_only() -> None:
    queue = OwnerQueue()
    queue.set_claims("pod", {b"10.1.1.7": b"a", b"fd00::7": b"b"})
    assert queue.set_claims("pod", {b"10.1.1.7": b"a"}) == {b"fd00::7": None, b"10.1.1.7": b"a"}
    assert queue.owners(b"10.1.1.7") == ("pod",)


def test_a_port_that_means_all_ports_travels_in_a_slice_and_has_no_place_in_a_service_record() -> None:
    whole = piece("cart-a", SliceEndpointIntent(("10.11.9.1",)), ports=(HTTP, Port("any", "UDP", None)))
    value = convert_slice(whole, service(), cluster=ClusterName("blue"), cluster_id=ClusterId(7))
    assert value is not None
    found = endpointslice.decode("shop/cart-a", value, cluster="blue", cluster_id=7)
    assert [(port.name, port.port) for port in found.ports] == [("http", 8080), ("any", None)]
    assert set(record(whole).backends["10.11.9.1"]) == {"http"}


def test_the_owner_of_a_service_hears_when_it_has_more_ports_than_peers_take() -> None:
    def with_ports(count: int) -> ServiceIntent:
        return replace(service(), ports=tuple(Port(f"p{number}", "TCP", number + 1) for number in range(count)))

    def read_by_peer(intent: ServiceIntent) -> ClusterService:
        record = convert_service(intent, [], cluster=ClusterName("north"), cluster_id=ClusterId(1))
        return decode("shop/cart", record.encode(), cluster="north", cluster_id=1)

    assert read_by_peer(with_ports(1024))
    assert problems_of(with_ports(1024)) == ()
    with pytest.raises(RecordError, match="1025 ports of one address, 1024 are accepted"):
        read_by_peer(with_ports(1025))
    (said,) = problems_of(with_ports(1025))
    assert said.startswith("1025 ports: peers take 1024 ")


def test_a_slice_of_many_addresses_and_ports_makes_no_record_that_fills_our_memory() -> None:
    """An API server takes a slice of twenty thousand ports and as many addresses."""
    many = piece(
        "cart-a",
        *(SliceEndpointIntent((f"10.{n >> 8}.{n & 255}.1",)) for n in range(20_000)),
        ports=tuple(Port(f"p{n}", "TCP", n + 1) for n in range(20_000)),
    )
    found = record(piece("cart-0", SliceEndpointIntent(("10.11.9.1",))), many)
    assert sum(len(ports) for ports in found.backends.values()) <= 200_000
    assert "10.11.9.1" in found.backends
