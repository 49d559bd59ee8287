# SPDX-License-Identifier: Apache-2.0
"""Rules to DNS names on a whole node: what pods are told is in force before they know it, and as long as it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.answered_names import AnsweredAddress
from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue
from agent.datapath.layout import IpcacheKey, PolicyKey
from agent.datapath.maps import Maps
from agent.datapath.memory import memory_maps
from agent.fqdn import selected_names
from agent.fqdn.feature import SWEEP_S
from agent.fqdn.name_cache import Pair
from agent.fqdn.open_connections import find_connected
from agent.identity.feature import IdentityFeature
from agent.ipcache.feature import IpcacheFeature
from agent.machine import MemoryHost
from agent.node_agent import NodeAgent, make_names, make_policy
from agent.observe.sides import Directory
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Endpoint, Frontend, FrontendKey, Identity, Prefix
from meshkit.clock import ManualClock, settle
from meshmodel.identity import Reserved
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import Direction, PolicyRef, differences
from meshpolicy.proxy_ports import ProxyPorts

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
POD, IDENTITY, EGRESS = "10.1.0.5", 65_537, Direction.EGRESS
SHOP, ELSE = "192.0.2.7", "198.51.100.9"
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
TO_SHOP: Sequence[Mapping[str, Any]] = ({"toFQDNs": [{"matchName": "shop.example"}]},)


class KeptHost(MemoryHost):
    """A machine whose maps outlive agents."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.maps, self.directory = memory_maps(), directory
        self.clock = ManualClock()

    def open(self) -> Maps:
        return self.maps


class Node:
    """An agent with one pod that policies select."""

    def __init__(self, host: KeptHost, core: Any) -> None:
        self.host, self.core = host, core
        identity, self.ipcache = IdentityFeature(core), IpcacheFeature(core)
        self.policy = make_policy(core, identity, self.ipcache, ProxyPorts())
        self.names = make_names(core, self.policy)
        self.features = (identity, self.ipcache, self.names, self.policy)

    def fill(self) -> None:
        with self.core.db.write():
            self.core.db.prefixes.put(
                Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, "172.18.0.2", "d", "p")
            )
            self.core.db.prefixes.put(Prefix("10.1.0.0/24", 0, "", NORTH, NORTH_ID, ClaimOrigin.POD_CIDR, name="n1"))
            self.core.db.identities.put(Identity(IDENTITY, NORTH, pod_labels({"app": "p"}, "d", {}, "d", NORTH)))
            self.core.db.endpoints.put(
                Endpoint(POD, 7, 12, "02:00:00:00:00:01", "02:00:00:00:00:02", IDENTITY, "d", "p")
            )

    def enforce(self, egress: Sequence[Mapping[str, Any]], name: str = "names") -> None:
        spec = {"endpointSelector": {}, "egress": list(egress)}
        document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": name, "namespace": "d"}, "spec": spec}
        row = self.policy.compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "d", name))
        assert (row.is_valid, row.problems) == (True, ())
        self.policy.ring()

    async def learn(self, name: str, *addresses: str, ttl_s: int = 60) -> None:
        """The proxy tells it, and releases the answer: what is there then is what the pod's first packet meets."""
        answered = [AnsweredAddress(address, ttl_s) for address in addresses]
        task = asyncio.ensure_future(self.names.learn(POD, name, answered))
        while not task.done():
            await self.run(0.002)
        await task

    async def run(self, seconds: float) -> None:
        await self.host.clock.run_for(seconds)
        await settle()

    def identity(self, address: str) -> int:
        value = self.host.maps.ipcache.get(IpcacheKey(f"{address}/32"))
        return int(Reserved.WORLD) if value is None else value.identity

    def allows(self, address: str, *, port: int = 443) -> bool:
        """What the kernel's maps say of a packet to the address."""
        for identity in (self.identity(address), 0):
            entry = self.host.maps.policy.get(PolicyKey(7, EGRESS, identity, 6, port, 16))
            if entry is not None and not entry.deny:
                return True
        return False

    def connect(self, address: str) -> ConntrackKey:
        """The pod has a connection to the address, which lasts until it is deleted."""
        key = ConntrackKey(POD, address, 40_000, 443, 6, ConntrackKind.EGRESS)
        self.host.maps.conntrack_tcp.update([(key, ConntrackValue(1, 60, 1 << 30, self.identity(address)))])
        return key


@asynccontextmanager
async def running(host: KeptHost, egress: Sequence[Mapping[str, Any]] = TO_SHOP) -> AsyncIterator[Node]:
    settings = AgentSettings(local_etcd="none", socket=host.directory / "agent.sock")
    node = Node(host, await open_core(settings, FACTS, None, host, host.clock, has_dns_proxy=True))
    node.fill()
    if egress:
        node.enforce(egress)

    async def serve() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(NodeAgent(node.core, node.features).run(serve))
    await settle()
    await node.run(1.0)
    try:
        yield node
        assert differences(node.policy.compiler.engine) == ()
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def host(tmp_path: Path) -> KeptHost:
    return KeptHost(tmp_path)


async def test_an_address_is_allowed_before_its_answer_is_released(host: KeptHost) -> None:
    async with running(host) as node:
        assert not node.allows(SHOP)
        await node.learn("shop.example.", SHOP)
        assert node.allows(SHOP)
        await node.learn("else.example.", ELSE)
        assert not node.allows(ELSE)
        assert node.identity(ELSE) == Reserved.WORLD


async def test_an_address_has_the_labels_of_names_and_of_its_range(host: KeptHost) -> None:
    rules = [{"toFQDNs": [{"matchName": "SHOP.example."}, {"matchPattern": "*.example"}]}]
    async with running(host, rules) as node:
        await node.learn("shop.example.", SHOP)
        labels = node.policy.compiler.engine.labels_of(node.identity(SHOP))  # type: ignore[arg-type]
        assert [str(label) for label in labels or ()] == [
            "cidr:192.0.2.7/32=",
            "fqdn:*.example=",
            "fqdn:shop.example=",
            "reserved:world=",
        ]


async def test_a_flow_has_the_name_that_its_pod_knows_the_address_by(host: KeptHost) -> None:
    async with running(host) as node:
        directory = Directory(node.core.db, lambda _number: None, node.names)
        directory.refresh()
        assert list(directory.between(POD, ELSE).destination_names) == []
        await node.learn("else.example.", ELSE)
        directory.refresh()
        assert list(directory.between(POD, ELSE).destination_names) == ["else.example"], "allowed or not"
        assert list(directory.between(ELSE, POD).source_names) == ["else.example"]
        assert list(directory.between("10.1.0.9", ELSE).destination_names) == []


async def test_an_address_is_let_go_when_its_ttl_and_its_connections_end(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP, ttl_s=60)
        before, key = node.identity(SHOP), node.connect(SHOP)
        await node.run(60 + SWEEP_S)
        assert node.identity(SHOP) == before, "a connection holds it"
        assert node.allows(SHOP)
        host.maps.conntrack_tcp.delete([key])
        await node.run(2 * SWEEP_S)
        assert not node.allows(SHOP)
        assert node.identity(SHOP) == Reserved.WORLD


async def test_rules_for_ranges_hold_for_an_address_with_a_name(host: KeptHost) -> None:
    deny = {
        "endpointSelector": {},
        "egress": [{"toCIDR": ["192.0.2.0/24"]}],
        "egressDeny": [{"toCIDR": ["192.0.2.64/26"]}],
    }
    async with running(host) as node:
        document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "range", "namespace": "d"}, "spec": deny}
        assert node.policy.compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "d", "range")).is_valid
        await node.learn("shop.example.", "192.0.2.7", "192.0.2.65")
        await node.run(0.1)
        assert node.allows("192.0.2.7")
        assert not node.allows("192.0.2.65"), "what is denied stays so, whatever its name"
        await node.run(60 + 2 * SWEEP_S)
        assert node.allows("192.0.2.7"), "it is in the range without a name"


async def test_a_policy_that_is_removed_and_made_again_means_what_is_still_known(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP)
        before = node.identity(SHOP)
        node.policy.compiler.remove_document(PolicyRef("CiliumNetworkPolicy", "d", "names"))
        node.policy.ring()
        await node.run(0.5)
        assert node.identity(SHOP) == Reserved.WORLD
        node.enforce(TO_SHOP)
        await node.run(0.5)
        assert node.allows(SHOP)
        assert node.identity(SHOP) == before


async def test_a_restarted_agent_has_names_and_numbers_before_it_writes(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP, "192.0.2.8", ttl_s=600)
        await node.names.save()
        before = sorted(map(str, host.maps.ipcache.items()))
    seen: list[bool] = []
    async with running(host) as node:
        seen.append(node.allows(SHOP))
        await node.run(5)
        assert sorted(map(str, host.maps.ipcache.items())) == before
        assert node.allows(SHOP)
        assert node.allows("192.0.2.8")
        assert node.names.names_for(POD, SHOP) == ["shop.example"]
        await node.run(600 + 2 * SWEEP_S)
        assert not node.allows(SHOP)
    assert seen == [True]


async def test_a_lost_file_of_names_closes_what_they_allowed_and_is_said(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP, ttl_s=600)
        assert node.allows(SHOP)
    host.directory = host.directory / "damaged"
    (host.directory / "fqdn").mkdir(parents=True)
    (host.directory / "fqdn" / "names.json").write_bytes(b'[1,[["10.1.0.5"')
    async with running(host) as node:
        await node.run(5)
        assert not node.allows(SHOP)
        assert "what pods were told is lost" in node.names.problems()[0]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (POD, "mesh"),
        ("10.1.0.77", "mesh"),
        ("172.20.0.9", "service"),
        ("127.0.0.1", "no-host"),
        ("169.254.169.254", "no-host"),
        ("224.0.0.1", "no-host"),
        ("0.0.0.0", "no-host"),
        ("2001:db8::7", "not-ipv4"),
    ],
)
async def test_an_answer_that_names_the_mesh_or_no_host_widens_nothing(
    host: KeptHost, address: str, reason: str
) -> None:
    async with running(host, [{"toFQDNs": [{"matchPattern": "*"}]}]) as node:
        with node.core.db.write():
            node.core.db.frontends.put(
                Frontend(FrontendKey("172.20.0.9", 80, "TCP"), ServiceName("d", "s"), "ClusterIP", "", ())
            )
        before = sorted(map(str, host.maps.ipcache.items()))
        await node.learn("evil.example.", address)
        await node.run(1)
        assert sorted(map(str, host.maps.ipcache.items())) == before
        assert not any(key.identity >= 1 << 24 for key, _ in host.maps.policy.items())
        samples = [sample for metric in node.names.metrics() for sample in metric.samples if sample.labels]
        assert {s.labels["reason"]: s.value for s in samples}[reason] == 1


async def test_an_address_that_becomes_the_meshs_is_not_meant_by_its_name_any_more(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP)
        with node.core.db.write():
            node.core.db.prefixes.put(Prefix("192.0.2.0/24", 0, "", NORTH, NORTH_ID, ClaimOrigin.POD_CIDR, name="n2"))
        await node.run(1)
        assert not node.allows(SHOP)
        assert node.identity(SHOP) != node.policy.compiler.engine.prefixes().get(f"{SHOP}/32")


async def test_the_name_of_a_service_is_no_name_of_the_world(host: KeptHost) -> None:
    async with running(host, [{"toFQDNs": [{"matchPattern": "*"}]}]) as node:
        await node.learn("s.d.svc.cluster.local.", "172.20.0.77")
        assert not node.allows("172.20.0.77")


async def test_a_pattern_that_means_too_many_addresses_keeps_the_first_and_says_so(
    host: KeptHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected_names, "ADDRESSES_OF_SELECTOR", 20)
    async with running(host, [{"toFQDNs": [{"matchPattern": "*.example"}]}]) as node:
        await node.learn("shop.example.", SHOP)
        for index in range(50):
            await node.learn(f"x{index}.example.", f"198.51.100.{index}")
        assert node.allows(SHOP)
        assert sum(node.allows(f"198.51.100.{index}") for index in range(50)) == 19
        assert "*.example has more than" in node.names.problems()[0]


async def test_what_is_forgotten_is_closed_at_once(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP)
        node.connect(SHOP)
        assert node.names.forget(lambda name: name == "shop.example.") == 1
        await node.run(0.5)
        assert not node.allows(SHOP)


async def test_answers_of_a_pod_that_is_gone_do_not_count(host: KeptHost) -> None:
    async with running(host) as node:
        await node.learn("shop.example.", SHOP, ttl_s=3600)
        with node.core.db.write():
            node.core.db.endpoints.delete(POD)
        await node.run(SWEEP_S + 1)
        assert node.identity(SHOP) == Reserved.WORLD
        assert node.names.cache.size == 0


async def test_no_moment_between_two_names_closes_an_address(host: KeptHost) -> None:
    """A second name for an address that is in use changes its labels, never what the maps say of it."""
    rules = [{"toFQDNs": [{"matchName": "shop.example"}]}, {"toFQDNs": [{"matchName": "alias.example"}]}]
    async with running(host, rules) as node:
        await node.learn("shop.example.", SHOP, ttl_s=40)
        closed: list[str] = []
        watch(host.maps, lambda: closed.append("closed") if not node.allows(SHOP) else None)
        await node.learn("alias.example.", SHOP, ttl_s=600)
        await node.run(40 + 2 * SWEEP_S)
        assert node.names.names_for(POD, SHOP) == ["alias.example"]
        assert closed == []


def test_an_entry_that_counts_as_absent_holds_nothing() -> None:
    maps = memory_maps()
    key = ConntrackKey(POD, SHOP, 40_000, 443, 6, ConntrackKind.EGRESS)
    maps.conntrack_tcp.update([(key, ConntrackValue(1, 60, 100, 2))])
    pair, tick_s = Pair(POD, SHOP), (1 << 30) / 1e9
    assert find_connected(maps, {pair}, 100 * tick_s + 0.1) == {pair}
    assert find_connected(maps, {pair}, 101 * tick_s + 0.1) == set()
    assert find_connected(maps, {Pair("10.1.0.9", SHOP)}, 1.0) == set()


def watch(maps: Maps, look: Callable[[], None]) -> None:
    """`look` is called after every write to the maps that judge a packet."""
    for held in (maps.ipcache, maps.policy):
        for verb in ("update", "delete"):
            plain = getattr(held, verb)

            def write(items: Any, plain: Any = plain) -> None:
                plain(items)
                look()

            setattr(held, verb, write)
