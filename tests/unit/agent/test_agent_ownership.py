# SPDX-License-Identifier: Apache-2.0
"""Which service has an address: the kind of the claim decides, not a name that a tenant chooses."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network

import pytest

from agent.datapath.memory import memory_maps
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.registry import BackendRegistry
from agent.loadbalancer.rows import ServiceRows
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, Backend, ClaimOrigin, FrontendKey, Prefix, Service, ServicePort
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH = ClusterName("north")
DNS, TENANT, OTHER = (
    ServiceName("kube-system", "kube-dns"),
    ServiceName("default", "aaa"),
    ServiceName("default", "bbb"),
)
DNS_IP, BALANCER_IP, EXTERNAL_IP = "10.96.0.10", "203.0.113.7", "198.51.100.10"
PORTS = (ServicePort("dns", 53, "UDP"), ServicePort("dns-tcp", 53, "TCP"))
ANYWHERE = (IPv4Network("0.0.0.0/0"),)


def service(
    name: ServiceName, *addresses: str, created: str = "2026-01-01T00:00:00Z", ports: tuple[ServicePort, ...] = PORTS
) -> Service:
    """Addresses as KIND=IP; a plain one is its cluster IP."""
    found = [a.rpartition("=") for a in addresses]
    return Service(name, tuple(Address(ip, kind or "ClusterIP") for kind, _, ip in found), ports, created=created)


class World:
    def __init__(self, ranges: tuple[IPv4Network, ...] = ANYWHERE, most: int = 100, most_backends: int = 100) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.writer = LoadBalancerWriter(self.db, ranges, most, most_backends)
        self.follower = AddressFollower(self.db, self.writer, (BackendRegistry(memory_maps().backends),))

    def put(self, *services: Service) -> None:
        for row in services:
            with self.db.write():
                self.writer.set_service(row)

    def delete(self, *names: ServiceName) -> None:
        for name in names:
            with self.db.write():
                self.writer.delete_service(name)

    def prefix(self, text: str, origin: ClaimOrigin) -> None:
        with self.db.write():
            self.db.prefixes.put(Prefix(text, 1, "", NORTH, ClusterId(1), origin, name="holder"))
        self.follower.step()

    def owners(self) -> dict[str, ServiceName]:
        return {str(row.key): row.service for row in self.db.frontends.rows()}

    def problems(self, name: ServiceName) -> str:
        row = self.db.service_problems.get(name)
        return "" if row is None else "; ".join(row.problems)


def test_an_address_that_is_asked_for_in_vain_is_not_shown_with_backends() -> None:
    """The list of services is read in a hurry: the tenant's claim on the cluster's DNS looked as if it had it."""
    world = World()
    clock = ManualClock()
    rows = ServiceRows(world.db, world.writer, LoadBalancerTarget(memory_maps(), clock.wall), clock)
    world.put(service(DNS, DNS_IP), service(TENANT, "10.96.0.20", f"ExternalIP={DNS_IP}"))
    with world.db.write():
        for name, ip in ((DNS, "10.1.0.2"), (TENANT, "10.1.0.3")):
            backends = [Backend(ip, 53, port.protocol, (port.name,)) for port in PORTS]
            world.writer.set_backends(name, NORTH, ClusterId(1), backends, 0.0)
    found = {(row.name, row.frontend): [b.address for b in row.backends if b.chosen] for row in rows.services()}
    assert found[str(DNS), f"{DNS_IP}:53/UDP"] == ["10.1.0.2"]
    assert found[str(TENANT), "10.96.0.20:53/UDP"] == ["10.1.0.3"]
    assert found[str(TENANT), f"{DNS_IP}:53/UDP"] == []


ROWS = {
    "dns": service(DNS, DNS_IP),
    "thief": service(TENANT, "10.96.0.20", f"ExternalIP={DNS_IP}", created="2020-01-01T00:00:00Z"),
    "balanced thief": service(OTHER, "10.96.0.30", f"LoadBalancer={DNS_IP}", created="2020-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("order", list(itertools.permutations(ROWS)))
def test_a_cluster_ip_keeps_its_owner_whatever_comes_first(order: tuple[str, ...]) -> None:
    world = World()
    world.put(*(ROWS[name] for name in order))
    expected = {f"{DNS_IP}:53/{p}": DNS for p in ("UDP", "TCP")}
    assert expected.items() <= world.owners().items()
    assert f"{DNS_IP} is the cluster IP of service kube-system/kube-dns" in world.problems(TENANT)
    assert DNS_IP in world.problems(OTHER)
    assert not world.problems(DNS)
    assert world.owners()["10.96.0.20:53/UDP"] == TENANT, "what is its own works"


def test_a_claim_on_another_port_of_a_cluster_ip_is_refused_too() -> None:
    world = World()
    world.put(
        service(DNS, DNS_IP),
        service(TENANT, "10.96.0.20", f"ExternalIP={DNS_IP}", ports=(ServicePort("x", 443, "TCP"),)),
    )
    assert f"{DNS_IP}:443/TCP" not in world.owners()


def test_the_claim_is_served_when_the_owner_of_the_cluster_ip_is_gone_and_given_back() -> None:
    world = World()
    world.put(ROWS["dns"], ROWS["thief"])
    world.delete(DNS)
    assert world.owners()[f"{DNS_IP}:53/UDP"] == TENANT
    assert not world.problems(TENANT)
    world.put(ROWS["dns"])
    assert world.owners()[f"{DNS_IP}:53/UDP"] == DNS
    assert world.problems(TENANT)


@pytest.mark.parametrize(
    ("first", "second", "winner", "why"),
    [
        ("LoadBalancer", "ExternalIP", "first", "LoadBalancer goes before ExternalIP"),
        ("ExternalIP", "LoadBalancer", "second", "LoadBalancer goes before ExternalIP"),
        ("LoadBalancer", "LoadBalancer", "second", "older"),
        ("ExternalIP", "ExternalIP", "second", "older"),
    ],
)
def test_kind_then_age_decide_and_the_loser_is_told(first: str, second: str, winner: str, why: str) -> None:
    rows = {
        "first": service(TENANT, "10.96.0.20", f"{first}={BALANCER_IP}", created="2026-02-01T00:00:00Z"),
        "second": service(OTHER, "10.96.0.30", f"{second}={BALANCER_IP}", created="2026-01-01T00:00:00Z"),
    }
    for order in (rows.values(), reversed(rows.values())):
        world = World()
        world.put(*order)
        assert world.owners()[f"{BALANCER_IP}:53/UDP"] == rows[winner].name
        loser = next(row.name for name, row in rows.items() if name != winner)
        assert why in world.problems(loser)
        assert not world.problems(rows[winner].name)
        world.delete(rows[winner].name)
        assert world.owners()[f"{BALANCER_IP}:53/UDP"] == loser
        assert not world.problems(loser)


def test_at_the_same_age_the_name_decides() -> None:
    world = World()
    world.put(
        service(OTHER, "10.96.0.30", f"LoadBalancer={BALANCER_IP}"),
        service(TENANT, "10.96.0.20", f"LoadBalancer={BALANCER_IP}"),
    )
    assert world.owners()[f"{BALANCER_IP}:53/UDP"] == TENANT
    assert "name comes first" in world.problems(OTHER)


def test_a_winner_that_becomes_weaker_hands_over() -> None:
    world = World()
    world.put(
        service(OTHER, "10.96.0.30", f"LoadBalancer={BALANCER_IP}"),
        service(TENANT, "10.96.0.20", f"ExternalIP={BALANCER_IP}"),
    )
    world.put(service(OTHER, "10.96.0.30", f"ExternalIP={BALANCER_IP}", created="2026-03-01T00:00:00Z"))
    assert world.owners()[f"{BALANCER_IP}:53/UDP"] == TENANT
    world.put(service(TENANT, "10.96.0.20"))
    assert world.owners()[f"{BALANCER_IP}:53/UDP"] == OTHER
    assert not world.problems(OTHER)


def test_two_services_share_a_balancer_address_on_different_ports() -> None:
    world = World()
    world.put(
        service(TENANT, "10.96.0.20", f"LoadBalancer={BALANCER_IP}", ports=(ServicePort("a", 80, "TCP"),)),
        service(OTHER, "10.96.0.30", f"LoadBalancer={BALANCER_IP}", ports=(ServicePort("b", 443, "TCP"),)),
    )
    assert world.owners()[f"{BALANCER_IP}:80/TCP"] == TENANT
    assert world.owners()[f"{BALANCER_IP}:443/TCP"] == OTHER
    assert not len(world.db.service_problems)


@pytest.mark.parametrize("kind", ["ExternalIP", "LoadBalancer"])
@pytest.mark.parametrize(
    ("prefix", "origin", "what"),
    [
        (f"{EXTERNAL_IP}/32", ClaimOrigin.NODE, "belongs to node holder"),
        (f"{EXTERNAL_IP}/32", ClaimOrigin.POD, "belongs to pod holder"),
        ("198.51.100.0/24", ClaimOrigin.POD_CIDR, "pod network 198.51.100.0/24"),
    ],
)
def test_what_a_node_or_pod_has_is_no_services(kind: str, prefix: str, origin: ClaimOrigin, what: str) -> None:
    """Whichever is known first; and when the node or pod is gone, the service has the address."""
    world = World()
    world.put(service(TENANT, "10.96.0.20", f"{kind}={EXTERNAL_IP}"))
    assert f"{EXTERNAL_IP}:53/UDP" in world.owners()
    world.prefix(prefix, origin)
    assert f"{EXTERNAL_IP}:53/UDP" not in world.owners()
    assert what in world.problems(TENANT)
    again = World()
    again.prefix(prefix, origin)
    again.put(service(TENANT, "10.96.0.20", f"{kind}={EXTERNAL_IP}"))
    assert again.db.dump() == world.db.dump()
    with world.db.write():
        world.db.prefixes.delete(prefix)
    world.follower.step()
    assert f"{EXTERNAL_IP}:53/UDP" in world.owners()
    assert not world.problems(TENANT)


@pytest.mark.parametrize("ip", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "010.1.1.3"])
@pytest.mark.parametrize("kind", ["ExternalIP", "LoadBalancer"])
def test_addresses_that_are_nobodys_are_refused(kind: str, ip: str) -> None:
    world = World()
    world.put(service(TENANT, "10.96.0.20", f"{kind}={ip}"))
    assert set(world.owners()) == {"10.96.0.20:53/UDP", "10.96.0.20:53/TCP"}
    assert ip in world.problems(TENANT)


def test_external_ips_are_off_unless_a_range_allows_them() -> None:
    row = service(TENANT, "10.96.0.20", f"ExternalIP={EXTERNAL_IP}", f"LoadBalancer={BALANCER_IP}")
    closed = World(ranges=())
    closed.put(row)
    assert f"{EXTERNAL_IP}:53/UDP" not in closed.owners()
    assert f"{BALANCER_IP}:53/UDP" in closed.owners()
    assert "external-ip-ranges" in closed.problems(TENANT)
    for network, is_open in (("198.51.100.0/28", True), ("198.51.100.16/28", False)):
        world = World(ranges=(IPv4Network(network),))
        world.put(row)
        assert (f"{EXTERNAL_IP}:53/UDP" in world.owners()) is is_open


def test_addresses_times_ports_of_one_service_are_bounded() -> None:
    world = World(most=5)
    ports = tuple(ServicePort(f"p{n}", n, "TCP") for n in range(1, 4))
    world.put(service(TENANT, "10.96.0.20", f"LoadBalancer={BALANCER_IP}", ports=ports))
    assert len(world.owners()) == 5
    assert {f"10.96.0.20:{n}/TCP" for n in (1, 2, 3)} <= world.owners().keys(), "the cluster IP goes first"
    assert "service-frontends-max" in world.problems(TENANT)
    world.put(service(TENANT, "10.96.0.20", ports=ports))
    assert len(world.owners()) == 3
    assert not world.problems(TENANT)
    many = tuple(ServicePort(f"p{n}", n, "TCP") for n in range(1, 50))
    world.put(service(TENANT, "10.96.0.20", ports=many))
    assert len(world.owners()) == 5


def test_backends_follow_whoever_has_the_address() -> None:
    world = World()
    world.put(ROWS["dns"], ROWS["thief"])
    with world.db.write():
        world.writer.set_backends(TENANT, NORTH, ClusterId(1), [Backend("10.1.0.9", 53, "UDP", ("dns",))], 0.0)
        world.writer.set_backends(DNS, NORTH, ClusterId(1), [Backend("10.1.0.1", 53, "UDP", ("dns",))], 0.0)
    row = world.db.frontends.get(FrontendKey(DNS_IP, 53, "UDP"))
    assert row is not None
    assert [t.address for t in row.chosen] == ["10.1.0.1"]
    world.delete(DNS)
    row = world.db.frontends.get(FrontendKey(DNS_IP, 53, "UDP"))
    assert row is not None
    assert [t.address for t in row.chosen] == ["10.1.0.9"]


def test_backends_of_one_service_are_bounded_for_each_cluster_and_the_first_beyond_are_named() -> None:
    world = World(most_backends=3)
    world.put(service(TENANT, "10.96.0.20"))
    south = ClusterName("south")

    def give(cluster: ClusterName, number: int, count: int) -> None:
        found = [
            Backend(f"10.{number}.0.{n}", 53, protocol, ("dns", "dns-tcp"))
            for n in range(count)
            for protocol in ("UDP",)
        ]
        with world.db.write():
            world.writer.set_backends(TENANT, cluster, ClusterId(number), found, 0.0)

    give(NORTH, 1, 5)
    assert len(world.db.backends.get((TENANT, NORTH)).backends) == 3  # type: ignore[union-attr]
    assert "cluster north has more than 3 backends (addresses times ports; service-backends-max): 10.1.0.3:53/UDP" in (
        world.problems(TENANT)
    )
    give(south, 2, 4)
    assert "cluster south has more than 3" in world.problems(TENANT)
    give(NORTH, 1, 3)
    assert "north" not in world.problems(TENANT)
    assert "cluster south has more than 3" in world.problems(TENANT)
    with world.db.write():
        world.writer.delete_service(TENANT)
    assert not world.problems(TENANT)
    world.put(service(TENANT, "10.96.0.20"))
    assert "cluster south has more than 3" in world.problems(TENANT), "whoever comes first, the service or its backends"
    give(south, 2, 0)
    assert not world.problems(TENANT)
