# SPDX-License-Identifier: Apache-2.0
"""verify finds one entry changed in any map, and the repair puts it right; both say what they found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import msgspec
import pytest

from agent.bootstrap import Facts
from agent.cli import render, verbs
from agent.core import Core, open_core
from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from agent.datapath.layout import (
    AddressKey,
    BackendKey,
    IfindexKey,
    IpcacheKey,
    IpcacheValue,
    MemberKey,
    MemberValue,
    PolicyKey,
    PolicyValue,
    ServiceFlag,
    ServiceKey,
    ServiceValue,
)
from agent.datapath.maps import Maps
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from agent.feature import Feature
from agent.heartbeat.feature import HeartbeatFeature
from agent.ipcache.feature import IpcacheFeature
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.machine import MemoryHost
from agent.node_agent import NodeAgent
from agent.policy.feature import PolicyFeature
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Endpoint, Frontend, FrontendKey, Identity, Prefix, Target
from agent.verification import add_verification_routes
from meshapi.agent import MapDifference, Verification
from meshkit.clock import ManualClock, settle
from meshkit.http import bind_unix, make_app, serve
from meshkit.rest import Rest
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.support.policy_neighbours import neighbours

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
NODE_IP, POD, IDENTITY = "172.18.0.2", "10.1.0.5", 65_537
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", NODE_IP, ("10.1.0.0/24",))
VIP = FrontendKey("172.20.0.9", 80, "TCP")
CHOSEN = (Target("10.1.0.7", 80, "TCP", 1), Target("10.2.0.7", 80, "TCP", 2))
DRAINING = (Target("10.1.0.8", 80, "TCP", 1),)
HEAD = ServiceKey(VIP.address, VIP.port, 6, 0)
INTERFACE = 12


class Host(MemoryHost):
    """A machine whose maps and devices the test may change behind the agent's back."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: MemoryMaps = memory_maps()
        self.lost_on_node: list[str] = []
        self.of_former_agent: list[str] = []
        self.lost_pins: list[str] = []

    def open(self) -> Maps:
        return self.maps

    def unattached_node(self, *, is_filled: bool) -> list[str]:
        return [*self.lost_on_node, *(self.of_former_agent if is_filled else ())]

    def attach_node(self, *, is_filled: bool) -> None:
        assert not self.lost_pins, "links need their directory"
        self.lost_on_node.clear()
        if is_filled:
            self.of_former_agent.clear()

    def unpinned(self) -> list[str]:
        return list(self.lost_pins)

    def pin_again(self) -> None:
        self.lost_pins.clear()


def lose_everything(host: Host) -> None:
    """The pin directory was removed: links end with their pins."""
    host.lost_pins.append("maps/mesh_services")
    host.lost_on_node.append("overlay ingress")


def delete(name: str) -> Callable[[Host], None]:
    """One entry of the map goes; which one is the same in every run."""

    def tamper(host: Host) -> None:
        kernel_map = getattr(host.maps, name)
        kernel_map.delete([min((key for key, _ in kernel_map.items()), key=str)])

    return tamper


def change(name: str, **fields: object) -> Callable[[Host], None]:
    def tamper(host: Host) -> None:
        kernel_map = getattr(host.maps, name)
        key, value = min(kernel_map.items(), key=str)
        kernel_map.update([(key, value._replace(**fields))])

    return tamper


def add(name: str, key: object, value: object) -> Callable[[Host], None]:
    return lambda host: getattr(host.maps, name).update([(key, value)])


def lose_slot(host: Host) -> None:
    host.maps.services.on_write = lambda _key: None  # type: ignore[attr-defined]  # the hole is what is tested
    host.maps.services.delete([HEAD._replace(slot=2)])


def lose_backend(host: Host) -> None:
    host.maps.backends.on_write = lambda _key: None  # type: ignore[attr-defined]  # the hole is what is tested
    value = host.maps.services.get(HEAD._replace(slot=1))
    assert value is not None
    host.maps.backends.delete([BackendKey(value.backend_id)])


def add_source(host: Host) -> None:
    """Everybody is let in."""
    head = host.maps.services.get(HEAD)
    assert head is not None
    host.maps.source_ranges.update([(SourceRangeKey(head.service_id, "0.0.0.0/0"), SourceRangeValue())])


def copy_endpoint(host: Host) -> None:
    value = host.maps.endpoints_by_address.get(AddressKey(POD))
    assert value is not None
    host.maps.endpoints_by_ifindex.update([(IfindexKey(99), value._replace(ifindex=99))])


TAMPERED: dict[str, tuple[str, Callable[[Host], None]]] = {
    "head changed": ("services", lambda h: h.maps.services.update([(HEAD, ServiceValue(0, 5, 1, 0))])),
    "slot lost": ("services", lose_slot),
    "frontend of nobody": ("services", add("services", ServiceKey("1.2.3.4", 1, 6, 0), ServiceValue(0, 9, 0, 0))),
    "member lost": ("members", delete("members")),
    "member of nobody": ("members", add("members", MemberKey(4, 5), MemberValue())),
    "source range lost": ("source_ranges", delete("source_ranges")),
    "source range of nobody": (
        "source_ranges",
        add("source_ranges", SourceRangeKey(4, "0.0.0.0/0"), SourceRangeValue()),
    ),
    "source range added": ("source_ranges", add_source),
    "backend lost": ("backends", lose_backend),
    "backend changed": ("backends", change("backends", port=81)),
    "prefix lost": ("ipcache", delete("ipcache")),
    "prefix changed": ("ipcache", change("ipcache", identity=2)),
    "prefix of nobody": ("ipcache", add("ipcache", IpcacheKey("9.9.9.9/32"), IpcacheValue(1, "0.0.0.0", 1, 0))),
    "verdict of nobody": ("policy", add("policy", PolicyKey(7, 1, 0, 0, 0, 0), PolicyValue(False, 1, 1, 0))),
    "verdict of no pod": ("policy", add("policy", PolicyKey(70, 1, 0, 0, 0, 0), PolicyValue(False, 1, 1, 0))),
    "endpoint lost": ("endpoints_by_address", delete("endpoints_by_address")),
    "endpoint changed": ("endpoints_by_address", change("endpoints_by_address", flags=3)),
    "interface lost": ("endpoints_by_ifindex", delete("endpoints_by_ifindex")),
    "interface of nobody": ("endpoints_by_ifindex", copy_endpoint),
    "heart stopped": ("heartbeat", add("heartbeat", HeartbeatKey(), HeartbeatValue(0))),
    "programs lost": ("attachments", lambda host: host.detach(INTERFACE)),
    "programs of nobody": ("attachments", lambda host: host.attach(99)),
    "pins lost": ("pins", lambda host: host.lost_pins.append("maps/mesh_services")),
    "pin directory lost": ("pins", lose_everything),
    "node programs lost": ("attachments", lambda host: host.lost_on_node.append("overlay ingress")),
}


class Running:
    def __init__(self, core: Core, host: Host, http: httpx.AsyncClient) -> None:
        self.core, self.host, self.http = core, host, http

    async def ask(self, method: str, path: str) -> Verification:
        answer = await self.http.request(method, path)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=Verification)


def make_features(core: Core) -> tuple[Feature, ...]:
    ipcache = IpcacheFeature(core)
    policy = PolicyFeature(core, neighbours(core.db, ipcache.writer))
    return (HeartbeatFeature(core), ipcache, LoadBalancerFeature(core), policy)


@asynccontextmanager
async def running(socket: Path | None = None) -> AsyncIterator[Running]:
    """An agent that has written everything, its clock standing still; it answers on the socket too."""
    host, clock = Host(), ManualClock()
    await clock.run_for(100.0)
    folder = TemporaryDirectory()
    settings = AgentSettings(local_etcd="none", socket=Path(folder.name, "agent.sock"))
    core = await open_core(settings, FACTS, None, host, clock)
    features = make_features(core)
    agent = NodeAgent(core, features)
    app = make_app("test", "1", core.health, core.registry)
    add_verification_routes(Rest(app), core, features, agent.reconcilers)

    async def answer() -> None:
        if socket is None:
            await asyncio.get_running_loop().create_future()
        else:
            await serve(app, sockets=[bind_unix(socket)])

    task = asyncio.ensure_future(agent.run(answer))
    fill(core)
    await settle()
    await clock.run_for(1.0)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            yield Running(core, host, http)
    finally:
        task.cancel()
        await asyncio.wait([task])
        folder.cleanup()


def fill(core: Core) -> None:
    db = core.db
    with db.write():
        row = Frontend(VIP, ServiceName("d", "s"), "ClusterIP", "", CHOSEN, DRAINING, source_ranges=("10.0.0.0/8",))
        db.frontends.put(replace(row, reach=ServiceFlag.SOURCE_RANGES))
        db.prefixes.put(Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, NODE_IP, "d", "p"))
        db.identities.put(Identity(IDENTITY, NORTH, pod_labels({"app": "p"}, "d", {}, "d", NORTH)))
        db.endpoints.put(Endpoint(POD, 7, INTERFACE, "02:00:00:00:00:01", "02:00:00:00:00:02", IDENTITY, "d", "p"))


@pytest.mark.parametrize("name", TAMPERED)
async def test_one_changed_entry_is_found_and_repaired(name: str) -> None:
    place, tamper = TAMPERED[name]
    async with running() as agent:
        equal = await agent.ask("GET", "/v1/verify")
        assert (equal.is_equal, equal.differences, equal.waiting_for, equal.pending) == (True, [], [], 0)
        tamper(agent.host)
        found = await agent.ask("GET", "/v1/verify")
        assert not found.is_equal
        assert place in {difference.place for difference in found.differences}
        assert await agent.ask("GET", "/v1/verify") == found
        repaired = await agent.ask("POST", "/v1/repair")
        assert (repaired.is_equal, repaired.differences, repaired.not_begun) == (True, [], [])
        assert repaired.repaired == found.differences
        agent.host.maps.check()


async def test_what_cannot_be_repaired_remains_and_is_named() -> None:
    async with running() as agent:
        with agent.core.db.write():
            agent.core.db.prefixes.put(Prefix("10.1.0.300/32", 2, "", NORTH, NORTH_ID, ClaimOrigin.POD))
        answer = await agent.ask("POST", "/v1/repair")
        assert answer.differences == [MapDifference("ipcache", "10.1.0.300/32", "no map can hold it")]
        assert (answer.pending, answer.repaired) == (1, [])


async def test_tables_that_are_not_complete_are_not_called_equal() -> None:
    async with running() as agent:
        agent.core.db.identities.expect("test")
        answer = await agent.ask("GET", "/v1/verify")
        assert (answer.differences, answer.waiting_for, answer.is_equal) == ([], ["test"], False)


async def test_a_repair_writes_nothing_before_the_first_listings() -> None:
    host, clock = Host(), ManualClock()
    host.maps.ipcache.update([(IpcacheKey("10.1.0.9/32"), IpcacheValue(IDENTITY, "0.0.0.0", 1, 0))])
    core = await open_core(AgentSettings(local_etcd="none"), FACTS, None, host, clock)
    features = make_features(core)
    reconcilers = {r.name: r.reconciler for feature in features for r in feature.reconcilers()}
    app = make_app("test", "1", core.health, core.registry)
    add_verification_routes(Rest(app), core, features, reconcilers)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        answer = await Running(core, host, http).ask("POST", "/v1/repair")
    assert answer.not_begun == ["endpoints", "frontends", "prefixes"]
    assert [difference.place for difference in answer.differences] == ["ipcache"]
    assert len(list(host.maps.ipcache.items())) == 1


async def test_a_former_agents_node_programs_go_on_until_the_addresses_are_listed() -> None:
    """They have its maps, ours may be empty; what runs nothing at all is attached meanwhile."""
    async with running() as agent:
        listed = agent.core.db.prefixes.expect("test")
        agent.host.of_former_agent.append("overlay ingress")
        agent.host.lost_on_node.append("underlay egress")
        await agent.ask("POST", "/v1/repair")
        assert (agent.host.lost_on_node, agent.host.of_former_agent) == ([], ["overlay ingress"])
        listed()
        await agent.ask("POST", "/v1/repair")
        assert agent.host.of_former_agent == []


async def test_the_verb_prints_one_line_per_difference_and_exits_3_until_it_is_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = tmp_path / "s"

    async def verb(*words: str) -> tuple[int, list[str]]:
        code = await asyncio.to_thread(verbs.main, ["verify", "--socket", str(socket), *words])
        return code, capsys.readouterr().out.splitlines()

    async with running(socket) as agent:
        async with asyncio.timeout(5):
            while not socket.exists():  # noqa: ASYNC110 - another thread of control makes it
                await asyncio.sleep(0)
        assert await verb() == (0, ["node n1: no differences"])
        agent.host.maps.ipcache.delete([IpcacheKey(f"{POD}/32")])
        line = f"ipcache: prefix={POD}/32: "
        assert await verb() == (3, [f"{line}missing", "node n1: 1 difference"])
        repaired = [f"{line}repaired; it was: missing", "node n1: no differences, 1 repaired"]
        assert await verb("--repair") == (0, repaired)
        assert await verb() == (0, ["node n1: no differences"])


def test_the_text_says_why_differences_are_expected() -> None:
    found = [MapDifference("ipcache", "prefix=10.1.0.9/32", "missing")] * 2
    answer = Verification(node="n1", differences=found, waiting_for=["peer south"], pending=2, not_begun=["prefixes"])
    assert render.verification(answer).splitlines()[2:] == [
        "the tables are not complete yet, still missing: peer south",
        "not repaired, because nothing is written before the first listings: prefixes",
        "node n1: 2 differences; 2 rows are not written yet or failed",
    ]
