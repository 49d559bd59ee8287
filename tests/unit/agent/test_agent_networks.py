# SPDX-License-Identifier: Apache-2.0
"""What a cluster may speak for: the own cluster always wins, special addresses are nobody's, lists narrow what a peer may own."""

from __future__ import annotations

import pytest
from agent_mesh_kit import FILE

from agent.mesh import accepted
from agent.mesh.blocks import block_of
from agent.mesh.networks import ClaimChange, Networks
from agent.tables import Node, NodeAddress
from meshmodel.errors import ModelError
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpeer.allowed import Allowed, parse_allowed

NORTH, SOUTH, EAST = ClusterName("north"), ClusterName("south"), ClusterName("east")


def node(cluster: str, name: str, ip: str, *cidrs: str, **more: str) -> Node:
    return Node(ClusterName(cluster), ClusterId(1), name, (NodeAddress("InternalIP", ip),), cidrs, **more)


@pytest.fixture
def networks() -> Networks:
    """We have a node, a pod elsewhere and a service; south has a node."""
    found = Networks(NORTH)
    found.set_node(node("north", "n1", "172.18.0.2", "10.1.0.0/24", health_ip="10.1.0.3"))
    found.set_own_pod("192.168.7.9/32")
    found.set_own_service(ServiceName("kube-system", "dns"), ["10.96.0.10"], ["172.18.9.1"])
    found.set_node(node("south", "s1", "172.18.0.5", "10.2.0.0/24"))
    return found


@pytest.mark.parametrize(
    "address",
    [
        "10.2.0.9", "10.2.0.9/32", "10.2.0.0/24", "172.18.0.5", "10.77.0.1", "192.168.219.0/26", "172.18.9.2", "192.168.7.8",
        "10.96.1.10", "fd00::7", "11.0.0.0/8",
    ],
)  # fmt: skip
def test_a_peer_may_speak_for_what_nobody_else_has(networks: Networks, address: str) -> None:
    assert networks.refuse_address(SOUTH, address) is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("172.18.0.2", "belongs to cluster north"),
        ("10.1.0.3", "belongs to cluster north"),
        ("10.1.0.77", "belongs to cluster north"),
        ("10.1.0.0/16", "belongs to cluster north"),
        ("192.168.7.9", "belongs to cluster north"),
        ("192.168.0.0/16", "belongs to cluster north"),
        ("10.96.0.10", "belongs to cluster north"),
        ("10.96.0.11", "belongs to cluster north"),
        ("10.96.0.0/12", "belongs to cluster north"),
        ("172.18.9.1", "belongs to cluster north"),
        ("127.0.0.1", "loopback"),
        ("169.254.169.0/24", "link-local"),
        ("224.0.0.7", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("128.0.0.0/5", "wider than /8"),
        ("0.0.0.0/0", "wider than /8"),
        ("2000::/12", "wider than /16"),
        ("::1", "loopback"),
        ("::", "unspecified"),
        ("::ffff:10.1.0.9", "IPv4-mapped"),
        ("fe80::1", "link-local"),
        ("100::a9fe:2a01", "for packets to be discarded"),
        ("ff02::1", "multicast"),
    ],
)
def test_a_peer_may_never_speak_for_ours_or_special_addresses(networks: Networks, address: str, why: str) -> None:
    for peer in (SOUTH, EAST):
        refusal = networks.refuse_address(peer, address)
        assert refusal is not None
        assert why in refusal.reason
    assert networks.refuse_address(NORTH, address) is None


def test_a_peer_may_not_speak_for_another_peers_networks(networks: Networks) -> None:
    for address in ("10.2.0.9", "10.2.0.0/16", "172.18.0.5"):
        refusal = networks.refuse_address(EAST, address)
        assert refusal is not None
        assert "belongs to cluster south" in refusal.reason
    networks.delete_node(SOUTH, "s1")
    assert networks.refuse_address(EAST, "10.2.0.9") is None


def test_a_prefix_is_not_judged_by_the_addresses_it_begins_with(networks: Networks) -> None:
    assert networks.refuse_address(SOUTH, "10.1.1.0") is None
    assert networks.refuse_address(SOUTH, "10.1.1.0/16") is not None


def test_a_later_claim_of_ours_ends_what_a_peer_was_allowed(networks: Networks) -> None:
    assert networks.refuse_address(SOUTH, "10.77.0.1") is None
    networks.set_node(node("north", "n2", "172.18.0.3", "10.77.0.0/24"))
    assert networks.refuse_address(SOUTH, "10.77.0.1") is not None
    assert networks.may_hold(SOUTH, block_of("10.77.0.0/24"))
    assert not networks.may_hold(EAST, block_of("10.77.0.0/24"))


@pytest.mark.parametrize(
    ("address", "ours"), [("fd00:2::7", "fd00:2::7/128"), ("fd00:2::/80", "fd00::/16"), ("10.8.0.0/26", "10.8.0.1")]
)
def test_what_was_accepted_is_found_again_whatever_its_length(networks: Networks, address: str, ours: str) -> None:
    """So that a later claim of ours ends it; many addresses cost no more memory than their neighbourhoods."""
    for _ in range(2):
        assert networks.refuse_address(SOUTH, address) is None
    networks.set_own_pod(ours)
    assert networks.may_hold(SOUTH, block_of(ours))
    assert networks.refuse_address(SOUTH, address) is not None


def test_a_list_that_narrows_forgets_nothing_that_was_accepted(networks: Networks) -> None:
    assert networks.refuse_address(SOUTH, "10.9.0.1") is None
    networks.allow(SOUTH, Allowed(("10.2.0.0/16",)))
    assert networks.may_hold(SOUTH, block_of("10.9.0.1"))


def test_many_addresses_are_told_at_once_only_where_each_may_be_claimed(networks: Networks) -> None:
    near = [f"10.2.0.{number}" for number in range(9)]
    assert not networks.may_have_all(SOUTH, near)  # nobody has looked at any yet
    assert networks.refuse_address(SOUTH, near[0]) is None
    assert networks.may_have_all(SOUTH, near)
    assert not networks.may_have_all(SOUTH, [*near, "10.1.0.9"])
    networks.set_node(node("north", "n2", "172.18.0.3", "10.2.0.128/25"))
    assert not networks.may_have_all(SOUTH, near)


def test_what_is_released_may_be_claimed_again(networks: Networks) -> None:
    networks.delete_own_pod("192.168.7.9/32")
    networks.set_own_service(ServiceName("kube-system", "dns"), [], [])
    networks.delete_node(NORTH, "n1")
    for address in ("192.168.7.9", "10.96.0.10", "10.1.0.9", "172.18.0.2"):
        assert networks.refuse_address(SOUTH, address) is None


@pytest.mark.parametrize("kind", ["InternalIP", "ExternalIP", "CiliumInternalIP", "Other", "health", "ingress"])
@pytest.mark.parametrize("ours", ["172.18.0.2", "10.1.0.77", "192.168.7.9", "10.96.0.10"])
def test_no_address_of_a_peers_node_record_takes_what_is_ours(networks: Networks, kind: str, ours: str) -> None:
    good = NodeAddress("InternalIP", "172.18.0.6")
    more = {"health": {"health_ip": ours}, "ingress": {"ingress_ip": ours}}.get(kind, {})
    addresses = (good,) if more else (good, NodeAddress(kind, ours))
    found, refusals = networks.admit(Node(SOUTH, ClusterId(2), "s2", addresses, ("10.2.2.0/24",), **more))
    assert found == Node(SOUTH, ClusterId(2), "s2", (good,), ("10.2.2.0/24",))
    assert len(refusals) == 1
    assert "belongs to cluster north" in refusals[0].reason


@pytest.mark.parametrize(
    "cidr", ["10.96.0.0/16", "10.1.0.0/24", "10.0.0.0/8", "169.254.169.0/24", "128.0.0.0/5", "10.2.0.0/25"]
)
def test_no_pod_network_of_a_peers_node_record_takes_what_is_not_its(networks: Networks, cidr: str) -> None:
    found, refusals = networks.admit(node("east", "e1", "172.18.0.8", cidr, "10.3.0.0/24"))
    assert found is not None
    assert found.pod_cidrs == ("10.3.0.0/24",)
    assert len(refusals) == 1


def test_a_node_without_any_address_of_its_own_is_refused(networks: Networks) -> None:
    found, refusals = networks.admit(node("east", "e1", "172.18.0.2", "10.3.0.0/24"))
    assert found is None
    assert refusals


def test_lists_in_the_connection_file_narrow_what_a_peer_may_own(networks: Networks) -> None:
    assert networks.refuse_address(SOUTH, "10.9.0.1") is None
    networks.allow(SOUTH, Allowed(("10.2.0.0/16",), ("172.18.0.0/24",)))
    refusal = networks.refuse_address(SOUTH, "10.9.0.1")
    assert refusal is not None
    assert "connection file" in refusal.reason
    assert networks.refuse_address(SOUTH, "10.2.9.1") is None
    assert networks.refuse_address(SOUTH, "172.18.0.5") is None  # a node it announced
    assert networks.refuse_address(SOUTH, "172.18.0.6") is not None
    found, refusals = networks.admit(
        node("south", "s2", "172.18.0.6", "10.2.6.0/24", "8.8.8.0/24", health_ip="8.8.8.8", ingress_ip="10.2.6.1")
    )
    assert found == node("south", "s2", "172.18.0.6", "10.2.6.0/24", ingress_ip="10.2.6.1")
    assert len(refusals) == 2
    assert networks.admit(node("south", "s3", "8.8.4.4"))[0] is None
    assert networks.refuse_address(EAST, "10.9.0.1") is None


@pytest.mark.parametrize(
    "text",
    [
        "networks: 10.2.0.0/16",
        "networks: []",
        "networks: [10.2.0.0/33]",
        "networks: [7]",
        "node-networks: [x]",
        "- a",
        "a: [",
    ],
)
def test_a_list_that_cannot_be_understood_is_an_error(text: str) -> None:
    with pytest.raises(ModelError):
        parse_allowed(text.encode())


def test_lists_are_read_from_the_connection_file() -> None:
    content = FILE % b"south" + b"networks: [10.2.0.7/16, fd00:2::/48]\nnode-networks:\n- 172.18.0.0/24\n"
    assert parse_allowed(content) == Allowed(("10.2.0.0/16", "fd00:2::/48"), ("172.18.0.0/24",))
    assert parse_allowed(FILE % b"south") == Allowed()


def test_changes_say_who_claims_what(networks: Networks) -> None:
    seen: list[ClaimChange] = []
    networks.settle()
    networks.judges.append(lambda changes: seen.extend(changes) or len(changes))
    networks.set_node(node("south", "s1", "172.18.0.5", "10.2.1.0/24"))
    networks.settle()
    networks.settle()
    assert sorted(map(str, (c.block for c in seen if c.is_added))) == ["10.2.1.0/24"]
    assert [str(c.block) for c in seen if not c.is_added] == ["10.2.0.0/24"]


def test_a_balancers_address_is_ours_again_when_no_list_has_it(networks: Networks) -> None:
    dns = ServiceName("kube-system", "dns")
    networks.allow(SOUTH, Allowed(("172.18.9.0/24",)))
    assert networks.refuse_address(SOUTH, "172.18.9.1") is None
    assert networks.refuse_address(SOUTH, "10.96.0.7") is not None
    assert networks.refuse_address(EAST, "10.96.0.7") is not None
    networks.allow(SOUTH, Allowed(("172.19.0.0/24",)))
    assert networks.refuse_address(EAST, "172.18.9.1") is not None
    networks.allow(SOUTH, Allowed((), ("172.18.9.0/24",)))
    assert networks.refuse_address(EAST, "172.18.9.1") is None
    networks.drop(SOUTH)
    assert networks.refuse_address(EAST, "172.18.9.1") is not None
    networks.allow(SOUTH, Allowed(("172.18.0.0/16",)))
    networks.set_own_service(dns, ["172.18.9.1"], ["172.18.9.1"])  # what Kubernetes gave is ours, whatever a list says
    assert networks.refuse_address(SOUTH, "172.18.9.1") is not None
    networks.set_own_service(dns, [], [])
    assert networks.own_services() == ()


def test_an_address_is_a_nodes_for_as_long_as_some_record_says_so(networks: Networks) -> None:
    """Two records with one address, one of them written twice: the address is forgotten with the last of them."""
    for name in ("s2", "s3", "s3"):
        networks.set_node(node("south", name, "172.18.0.6"))
    networks.delete_node(SOUTH, "s2")
    assert networks.refuse_host(SOUTH, "172.18.0.6") is None
    networks.delete_node(SOUTH, "s3")
    assert "is no node of cluster south" in str(networks.refuse_host(SOUTH, "172.18.0.6"))


def test_every_service_of_a_balancer_address_is_named(networks: Networks) -> None:
    """Services may share an address: that of one which goes stays the others'."""
    one, two = ServiceName("shop", "web"), ServiceName("kube-system", "dns")

    def why() -> str:
        refusal = networks.refuse_address(SOUTH, "172.18.9.1")
        return "" if refusal is None else refusal.reason

    networks.set_own_service(one, [], ["172.18.9.1", "172.18.9.1"])
    assert "load balancer of Service kube-system/dns, shop/web" in why()
    networks.set_own_service(two, [], [])
    assert "load balancer of Service shop/web)" in why()
    networks.set_own_service(one, [], [])
    assert why() == ""


def test_what_the_own_node_has_stays_ours_when_its_record_goes(networks: Networks) -> None:
    networks.set_this_node(["172.18.0.2", "10.1.0.0/24"])
    networks.delete_node(NORTH, "n1")
    for address in ("172.18.0.2", "10.1.0.77"):
        assert (refusal := networks.refuse_address(SOUTH, address)) is not None
        assert "belongs to cluster north" in refusal.reason
    networks.set_this_node(["172.18.0.3"])
    assert networks.refuse_address(SOUTH, "172.18.0.2") is None


@pytest.mark.parametrize("form", ["11.{}.{}.9", "fd00:{:x}:{:x}::9"])
def test_what_a_peer_tells_and_takes_back_is_forgotten(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A thousand neighbourhoods, one address each, of which it has the last one."""
    monkeypatch.setattr(accepted, "MOST", 100)
    kept, counted = form.format(3, 249), 0
    networks.drop(SOUTH)

    def held() -> list[str]:
        nonlocal counted
        counted += 1
        return [kept]

    for number in range(1000):
        assert networks.refuse_address(SOUTH, form.format(number // 250, number % 250)) is None
        networks.recount(SOUTH, held)
    assert 1 <= counted <= 10
    networks.set_own_pod(kept)
    assert networks.may_hold(SOUTH, block_of(kept))
    gone = form.format(0, 1)
    networks.set_own_pod(gone)
    assert not networks.may_hold(SOUTH, block_of(gone))
