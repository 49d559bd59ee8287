# SPDX-License-Identifier: Apache-2.0
"""NodeAgent: features start in order, and a used node keeps what is in force until this agent knows as much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.bootstrap import Facts
from agent.core import Core, open_core
from agent.datapath.layout import EndpointFlag
from agent.datapath.maps import Maps
from agent.datapath.memory import memory_maps
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting
from agent.endpoints.feature import EndpointsFeature
from agent.feature import Feature, Tasks
from agent.identity.feature import IdentityFeature
from agent.ipcache.feature import IpcacheFeature
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.machine import MemoryHost
from agent.mesh.feature import MeshFeature
from agent.mesh.ingest import Writers
from agent.node_agent import FeatureStartError, NodeAgent, make_features
from agent.nodes.feature import NodesFeature
from agent.policy.feature import PolicyFeature
from agent.settings import AgentSettings
from agent.tables import AgentDB, ClaimOrigin, Endpoint, Frontend, FrontendKey, Identity, Prefix, Target
from meshkit.clock import ManualClock, settle
from meshkit.health import HealthLevel
from meshkit.table import Table
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import PolicyKind, PolicyRef
from tests.support.policy_neighbours import neighbours

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
NODE_IP, POD, IDENTITY = "172.18.0.2", "10.1.0.5", 65_537
VIP = FrontendKey("172.20.0.9", 80, "TCP")
TABLES = ("frontends", "prefixes", "verdicts")
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", NODE_IP, ("10.1.0.0/24",))


class UsedHost(MemoryHost):
    """A machine whose maps outlive agents."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = memory_maps()

    def open(self) -> Maps:
        return self.maps

    def held(self) -> Mapping[str, list[str]]:
        """Every map an agent writes, as text."""
        names = ("services", "backends", "members", "ipcache", "policy", "endpoints_by_address", "endpoints_by_ifindex")
        return {name: sorted(map(str, getattr(self.maps, name).items())) for name in names}


class Source(Feature):
    """Stands for whatever fills the tables: it lists when the test says so."""

    name = "source"

    def __init__(self, core: Core, *tables: str) -> None:
        self._core, self._tables = core, tables
        self.done: dict[str, Callable[[], None]] = {}

    def expect(self) -> None:
        for name in self._tables:
            self.done[name] = _table(self._core.db, name).expect(f"test {name}")


class Recorder(Feature):
    """Writes down what is asked of it."""

    def __init__(self, name: str, said: list[str], *, fails_at: str = "") -> None:
        self.name, self._said, self._fails_at = name, said, fails_at  # type: ignore[misc]

    def _say(self, word: str) -> None:
        self._said.append(f"{self.name} {word}")
        if word == self._fails_at:
            raise OSError(5, "no such luck")

    def restore(self) -> int:
        self._say("restore")
        return 0

    def expect(self) -> None:
        self._say("expect")

    def tasks(self) -> Tasks:
        async def run() -> None:
            self._say("run")

        return {f"{self.name} task": run()}

    def stop_waiting(self) -> Sequence[str]:
        self._say("stop waiting")
        return ("something",)


def _table(db: AgentDB, name: str) -> Table[object, object]:
    found: Table[object, object] = getattr(db, name)
    return found


async def make_core(host: MemoryHost, **settings: object) -> Core:
    chosen = {"local_etcd": "none", "sync_timeout_s": 60.0, **settings}
    return await open_core(AgentSettings(**chosen), FACTS, None, host, ManualClock())  # type: ignore[arg-type]


@asynccontextmanager
async def running(core: Core, *features: Feature) -> AsyncIterator[NodeAgent]:
    agent = NodeAgent(core, features)

    async def serve() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(agent.run(serve))
    await settle()
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.wait([task])


def map_features(core: Core) -> tuple[Feature, ...]:
    """Every feature that writes maps."""
    ipcache = IpcacheFeature(core)
    return (ipcache, LoadBalancerFeature(core), PolicyFeature(core, neighbours(core.db, ipcache.writer)))


def fill(db: AgentDB) -> None:
    """A service, a pod of this node, and the address of the pod."""
    with db.write():
        db.frontends.put(Frontend(VIP, ServiceName("d", "s"), "ClusterIP", "", (Target("10.1.0.7", 80, "TCP", 1),)))
        db.prefixes.put(Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, NODE_IP, "d", "p"))
        db.identities.put(Identity(IDENTITY, NORTH, pod_labels({"app": "p"}, "d", {}, "d", NORTH)))
        db.endpoints.put(Endpoint(POD, 7, 12, "02:00:00:00:00:01", "02:00:00:00:00:02", IDENTITY, "d", "p"))


async def used_host() -> UsedHost:
    """A node on which an agent has written all maps and ended."""
    host = UsedHost()
    core = await make_core(host)
    async with running(core, *map_features(core)):
        fill(core.db)
        await core.clock.run_for(1.0)  # type: ignore[attr-defined]
    assert all(rows for name, rows in host.held().items() if name != "policy")
    return host


async def test_every_feature_restores_before_any_names_its_sources_and_all_that_before_anything_runs() -> None:
    said: list[str] = []
    core = await make_core(MemoryHost())
    async with running(core, Recorder("a", said), Recorder("b", said)):
        assert said == ["a restore", "b restore", "a expect", "b expect", "a run", "b run"]


@pytest.mark.parametrize("step", ["restore", "expect"])
async def test_a_feature_that_cannot_start_is_named_and_nothing_runs_or_is_written(step: str) -> None:
    host, said, served = await used_host(), [], []
    before = host.held()
    core = await make_core(host)

    async def serve() -> None:
        served.append(True)

    agent = NodeAgent(core, (*map_features(core), Recorder("broken", said, fails_at=step), Recorder("next", said)))
    with pytest.raises(FeatureStartError, match=r"feature broken cannot start: .*no such luck") as caught:
        await agent.run(serve)
    assert caught.value.feature == "broken"
    assert f"broken {step}" in said
    assert f"next {step}" not in said
    assert not [word for word in said if word.endswith("run")]
    assert not served
    assert host.held() == before


@pytest.mark.parametrize("missing", TABLES)
async def test_a_used_node_keeps_each_map_until_every_source_of_its_table_has_listed(missing: str) -> None:
    host = await used_host()
    before, core = host.held(), await make_core(host)
    source, clock = Source(core, *TABLES), core.clock
    assert isinstance(clock, ManualClock)
    async with running(core, source, *map_features(core)):
        for name in TABLES:
            if name != missing:
                source.done[name]()
        await clock.run_for(3_600.0)
        affected = {"frontends": ("services", "backends", "members"), "prefixes": ("ipcache",)}
        kept = (
            affected.get(missing, ())
            if missing == "frontends"
            else (*affected.get(missing, ()), "endpoints_by_address")
        )
        assert {name: host.held()[name] for name in kept} == {name: before[name] for name in kept}
        source.done[missing]()
        await clock.run_for(3_600.0)
        assert not any(host.held().values())


@pytest.mark.parametrize(
    ("missing", "map_name"),
    [("frontends", "services"), ("prefixes", "ipcache"), ("verdicts", "endpoints_by_address"),
     ("prefixes", "endpoints_by_address"), ("endpoints", "endpoints_by_address")],
)  # fmt: skip
async def test_a_used_node_is_not_written_row_by_row_while_a_source_is_missing(missing: str, map_name: str) -> None:
    host = await used_host()
    before, core = host.held(), await make_core(host)
    source, clock = Source(core, missing), core.clock
    assert isinstance(clock, ManualClock)
    async with running(core, source, *map_features(core)):
        fill(core.db)
        with core.db.write():
            core.db.frontends.put(Frontend(VIP, ServiceName("d", "s"), "ClusterIP", "", ()))
            core.db.prefixes.put(
                Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, NODE_IP, is_known=False)
            )
            core.db.endpoints.put(Endpoint(POD, 7, 13, "02:00:00:00:00:01", "02:00:00:00:00:02", IDENTITY, "d", "p"))
        await clock.run_for(3_600.0)
        assert host.held()[map_name] == before[map_name]
        source.done[missing]()
        await clock.run_for(1.0)
        assert host.held()[map_name] != before[map_name]


async def test_an_empty_node_writes_services_at_once_and_pods_only_when_all_is_known() -> None:
    host = UsedHost()
    core = await make_core(host)
    source, clock = Source(core, *TABLES, "endpoints"), core.clock
    assert isinstance(clock, ManualClock)
    async with running(core, source, *map_features(core)):
        fill(core.db)
        await clock.run_for(1.0)
        assert host.held()["services"]
        assert host.held()["ipcache"]
        for name in ("frontends", "verdicts", "prefixes", "endpoints"):
            assert not host.held()["endpoints_by_address"]
            source.done[name]()
            await clock.run_for(1.0)
        assert host.held()["endpoints_by_address"]
        assert host.attached() == {12}


async def test_the_first_write_for_a_pod_is_by_what_was_known_when_the_last_listing_ended() -> None:
    flags_at_attach: list[int] = []

    class Host(UsedHost):
        def attach(self, ifindex: int) -> None:
            super().attach(ifindex)
            flags_at_attach.extend(value.flags for _, value in self.maps.endpoints_by_address.items())

    core = await make_core(Host())
    source, clock = Source(core, "prefixes"), core.clock
    assert isinstance(clock, ManualClock)
    features = map_features(core)
    policy = next(feature for feature in features if isinstance(feature, PolicyFeature))
    document = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "d"},
        "spec": {"podSelector": {"matchLabels": {"app": "p"}}, "policyTypes": ["Ingress"]},
    }
    async with running(core, source, *features):
        policy.compiler.set_document(document, PolicyRef(PolicyKind.KUBERNETES, "d", "deny"))
        with core.db.write():
            core.db.endpoints.put(Endpoint(POD, 7, 12, "02:00:00:00:00:01", "02:00:00:00:00:02", IDENTITY, "d", "p"))
        await clock.run_for(1.0)
        fill(core.db)  # the identity's labels come with the end of the listing
        source.done["prefixes"]()
        await clock.run_for(1.0)
    assert flags_at_attach == [EndpointFlag.ENFORCE_INGRESS]


async def test_sources_are_waited_for_no_longer_than_the_sync_time_out() -> None:
    said: list[str] = []
    core = await make_core(MemoryHost(), sync_timeout_s=60.0)
    clock = core.clock
    assert isinstance(clock, ManualClock)
    waiting = Source(core, "frontends")
    async with running(core, Recorder("a", said), Recorder("b", said), waiting):
        await clock.run_for(59.0)
        assert "a stop waiting" not in said
        assert core.health.snapshot()["first listings"].level is HealthLevel.STARTING
        await clock.run_for(2.0)
        assert said[-2:] == ["a stop waiting", "b stop waiting"]
        assert core.health.snapshot()["first listings"].level is HealthLevel.DEGRADED
        waiting.done["frontends"]()
        await clock.run_for(2.0)
        assert core.health.snapshot()["first listings"].level is HealthLevel.OK


async def test_the_time_out_releases_peers_and_never_the_own_cluster(tmp_path: Path) -> None:
    class QuietMesh(MeshFeature):
        def tasks(self) -> Tasks:
            return {}

    (tmp_path / "peers").mkdir()
    (tmp_path / "peers/south").write_text("endpoints:\n- http://south:2379\n")
    (tmp_path / "own").write_text("endpoints:\n- http://own:2379\n")
    core = await make_core(
        MemoryHost(), local_etcd="own", local_etcd_config=str(tmp_path / "own"), clustermesh_config=tmp_path / "peers"
    )
    made = make_features(core)
    clock = core.clock
    assert isinstance(clock, ManualClock)
    found = {feature.name: feature for feature in made}
    balancer, addresses = found["loadbalancer"], found["ipcache"]
    identities, nodes, policies = found["identity"], found["nodes"], found["policy"]
    assert isinstance(balancer, LoadBalancerFeature)
    assert isinstance(addresses, IpcacheFeature)
    assert isinstance(identities, IdentityFeature)
    assert isinstance(nodes, NodesFeature)
    assert isinstance(policies, PolicyFeature)
    writers = Writers(balancer.writer, addresses.writer, identities.writer, nodes.writer)
    async with running(core, QuietMesh(core, writers, None, policies.describe_widening)):
        assert any(s.startswith("south ") for s in core.db.prefixes.waiting_for)
        assert any(s.startswith("south ") for s in core.db.frontends.waiting_for)
        own = tuple(s for s in core.db.prefixes.waiting_for if s.startswith("north "))
        assert len(own) == 3
        await clock.run_for(3_600.0)
        assert core.db.prefixes.waiting_for == own
        assert core.db.frontends.initialized


async def test_pods_count_as_looked_for_only_after_a_round_that_began_when_all_addresses_were_known() -> None:
    class Host(MemoryHost):
        def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
            interface = EndpointInterface(12, "02:00:00:00:00:01", "02:00:00:00:00:02")
            return [LinkSighting(interface if address == POD else None) for address, _ in asked]

    core = await make_core(Host())
    clock, db = core.clock, core.db
    assert isinstance(clock, ManualClock)
    source = Source(core, "prefixes")
    async with running(core, source, EndpointsFeature(core)):
        await clock.run_for(3_600.0)
        assert not db.endpoints.initialized
        with db.write():
            db.prefixes.put(Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, NODE_IP, "d", "p"))
        source.done["prefixes"]()
        while not db.endpoints.initialized:
            await db.endpoints.changed.wait(db.endpoints.changed.count)
        assert db.endpoints.get(POD) is not None


@pytest.mark.runbook("lost-programs")
async def test_an_interface_that_lost_its_programs_has_them_again_within_a_second() -> None:
    host = UsedHost()
    core = await make_core(host)
    clock = core.clock
    assert isinstance(clock, ManualClock)
    async with running(core, *map_features(core)):
        fill(core.db)
        await clock.run_for(1.0)
        assert host.attached() == {12}
        host.detach(12)
        await clock.run_for(1.0)
        assert host.attached() == {12}


async def test_a_row_that_cannot_be_written_is_in_the_health_report() -> None:
    host = UsedHost()
    core = await make_core(host)
    clock = core.clock
    assert isinstance(clock, ManualClock)
    async with running(core, *map_features(core)) as agent:
        with core.db.write():
            core.db.prefixes.put(Prefix("no prefix", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD))
        await clock.run_for(2.0)
        component = core.health.snapshot()["map prefixes"]
        assert component.level is HealthLevel.DEGRADED
        assert "no prefix" in component.message
        assert agent.reconcilers["prefixes"].status().failed == 1
        assert core.health.snapshot()["map frontends"].level is HealthLevel.OK
