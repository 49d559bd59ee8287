# SPDX-License-Identifier: Apache-2.0
"""Host policies in the agent: from documents, node records and Services to what the maps hold for the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.datapath.layout import EndpointFlag, EndpointValue, IfindexKey
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.policy.comparison import compare_endpoints
from agent.policy.compiler import PolicyCompiler
from agent.policy.host import HostGuard
from agent.policy.nodes import NodeFollower, NodeVerbs
from agent.policy.ops import EndpointTarget
from agent.policy.plan import is_guard
from agent.settings import AgentSettings
from agent.tables import THE_NODE, AgentDB, Backend, BackendSet, EndpointVerdicts, Node, NodeAddress, pack_labels
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import Direction, PolicyContext, PolicyRef, endpoint_views
from tests.support.policy_neighbours import neighbours

NORTH = ClusterName("north")
ADDRESS = "192.168.50.11"
REF = PolicyRef("CiliumClusterwideNetworkPolicy", "", "hosts")
BOTH = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS


class Nothing:
    """No interface is ever attached for the node."""

    def attach(self, ifindex: int) -> None:
        raise AssertionError(ifindex)

    detach = attach

    def attached(self) -> set[int]:
        return set()

    def unattached(self, ifindexes: Any) -> set[int]:
        assert not ifindexes
        return set()


class Agent:
    """One agent's policy part over maps that outlive it."""

    def __init__(self, maps: MemoryMaps, share: int = 1000, settings: AgentSettings | None = None) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "own", ADDRESS)
        prefixes, identities = PrefixWriter(self.db), IdentityWriter(self.db)
        found = neighbours(self.db, prefixes)
        verbs = NodeVerbs(
            identities.set_identity, identities.delete_identity, found.set_node_identities, lambda: True, lambda: True
        )
        self.guard = HostGuard(
            self.db,
            settings or AgentSettings(clustermesh_config=Path("/nowhere")),
            "https://203.0.113.9:6443",
            ManualClock(),
            lambda host: (host,),
        )
        self.compiler = PolicyCompiler(
            self.db, PolicyContext(NORTH), found.set_prefixes, NodeFollower(self.db, verbs), self.guard.facts
        )
        self.maps, self.target = maps, EndpointTarget(maps, Nothing(), share)
        if THE_NODE.address in self.target.restore():
            self.compiler.restore_node()

    def node(self, role: str) -> None:
        address = (NodeAddress("InternalIP", ADDRESS),)
        with self.db.write():
            self.db.nodes.put(Node(NORTH, ClusterId(1), "own", address, (), packed_labels=pack_labels({"role": role})))

    def host_policy(self, **spec: Any) -> None:
        selector = {"nodeSelector": {"matchLabels": {"role": "edge"}}}
        document = {"apiVersion": "cilium.io/v2", "kind": REF.kind, "metadata": {"name": REF.name}}
        row = self.compiler.set_document({**document, "spec": {**selector, **(spec or {"ingress": [{}]})}}, REF)
        assert (row.is_valid, row.problems) == (True, ())

    def write(self) -> EndpointVerdicts | None:
        self.compiler.step()
        rows = list(self.db.verdicts.rows())
        kept = {row.endpoint.address: row for row in rows}
        list(self.target.prune(_Rows(kept)))
        self.target.update(rows)
        assert not compare_endpoints(self.maps, Nothing(), rows, 1_000_000) or self.target.failures
        return self.db.verdicts.get(THE_NODE.address)


def judged(maps: MemoryMaps) -> Agent:
    """The agent of an edge node while a policy selects such nodes, everything written."""
    agent = Agent(maps)
    agent.node("edge")
    agent.host_policy()
    agent.write()
    return agent


class _Rows:
    def __init__(self, rows: dict[str, EndpointVerdicts]) -> None:
        self._rows = rows

    def keys(self) -> Any:
        return self._rows.keys()

    def get(self, key: str) -> EndpointVerdicts | None:
        return self._rows.get(key)

    def __len__(self) -> int:
        return len(self._rows)


def held(maps: MemoryMaps) -> EndpointValue | None:
    return maps.node.get(IfindexKey(0))


@pytest.fixture
def maps() -> MemoryMaps:
    return memory_maps()


def test_the_node_is_judged_while_a_policy_selects_it_by_its_labels_of_now(maps: MemoryMaps) -> None:
    agent = Agent(maps)
    agent.node("core")
    agent.host_policy()
    assert (agent.write(), held(maps), len(dict(maps.policy.items()))) == (None, None, 0)
    agent.node("edge")
    agent.write()
    value = held(maps)
    assert value is not None
    assert (value.flags, value.endpoint_id, value.identity) == (BOTH, 0, 1)
    assert not dict(maps.endpoints_by_address.items())
    assert not dict(maps.endpoints_by_ifindex.items())
    agent.node("core")
    assert (agent.write(), held(maps), len(dict(maps.policy.items()))) == (None, None, 0)
    agent.node("edge")
    assert agent.write() is not None
    agent.compiler.remove_document(REF)
    assert (agent.write(), held(maps), len(dict(maps.policy.items()))) == (None, None, 0)


def test_a_node_whose_record_is_gone_is_judged_by_the_labels_it_had(maps: MemoryMaps) -> None:
    agent = judged(maps)
    before = held(maps)
    with agent.db.write():
        agent.db.nodes.delete((NORTH, "own"))
    agent.write()
    assert held(maps) == before
    agent.compiler.remove_document(REF)
    agent.write()
    agent.host_policy()
    assert agent.write() is not None
    agent.node("core")
    assert (agent.write(), held(maps)) == (None, None)


def test_another_agent_takes_over_and_takes_off_what_is_not_wanted_any_more(maps: MemoryMaps) -> None:
    judged(maps)
    before = held(maps)
    second = Agent(maps)
    assert held(maps) == before
    second.node("edge")
    second.host_policy()
    second.write()
    assert held(maps) == before
    third = Agent(maps)
    assert (third.write(), held(maps), len(dict(maps.policy.items()))) == (None, None, 0)


def test_a_judged_node_whose_labels_no_agent_knows_any_more_is_closed_but_for_the_guard_until_its_record_is_there(
    maps: MemoryMaps,
) -> None:
    judged(maps)
    again = Agent(maps)
    again.host_policy()
    found = again.write()
    assert found is not None
    assert (found.policy.ingress_enforced, found.policy.egress_enforced) == (True, True)
    assert all(is_guard(value.precedence) for _, value in maps.policy.items())
    assert any("has no record with its labels" in problem for problem in again.compiler.node_problems())
    again.node("core")
    assert (again.write(), held(maps), again.compiler.node_problems()) == (None, None, [])
    fresh = Agent(memory_maps())
    fresh.host_policy()
    assert fresh.write() is None, "no agent ever judged it"
    judged(maps)
    again = Agent(maps)
    assert again.write() is None, "no host policy is there any more"


def test_a_changed_entry_of_the_node_is_found_and_repaired(maps: MemoryMaps) -> None:
    agent = judged(maps)
    wanted = held(maps)
    assert wanted is not None
    maps.node.update([(IfindexKey(0), wanted._replace(flags=0))])
    rows = list(agent.db.verdicts.rows())
    assert [d.place for d in compare_endpoints(maps, Nothing(), rows, 1000)] == ["node"]
    agent.write()
    assert held(maps) is not None
    assert held(maps)._replace(policy_revision=0) == wanted._replace(policy_revision=0)  # type: ignore[union-attr]


def test_the_guard_follows_the_api_server(maps: MemoryMaps) -> None:
    agent = Agent(maps)
    assert agent.guard.facts().api_servers == (("203.0.113.9", 6443),)
    assert not agent.guard.facts().is_api_server
    service = ServiceName("default", "kubernetes")
    with agent.db.write():
        agent.db.backends.put(BackendSet(service, NORTH, ClusterId(1), (Backend(ADDRESS, 6443, "TCP"),)))
    assert agent.guard.facts().is_api_server
    agent.node("edge")
    agent.host_policy(ingressDeny=[{"fromEntities": ["all"]}])
    row = agent.write()
    assert row is not None
    assert row.policy.verdict(Direction.INGRESS, 2, 6, 6443).allowed
    with agent.db.write():
        agent.db.backends.put(BackendSet(service, NORTH, ClusterId(1), (Backend("203.0.113.10", 443, "TCP"),)))
    row = agent.write()
    assert row is not None
    assert not row.policy.verdict(Direction.INGRESS, 2, 6, 6443).allowed
    assert {"203.0.113.9/32", "203.0.113.10/32"} <= agent.compiler.engine.prefixes().keys()


def test_a_node_whose_policies_make_too_many_entries_is_closed_but_for_the_guard(
    maps: MemoryMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = judged(maps)
    monkeypatch.setattr(endpoint_views, "MOST_ENTRIES", 1_000)
    ports = [{"ports": [{"port": str(port), "protocol": "TCP"} for port in range(1, 41)]}]
    ranges = [f"198.51.100.{n}/32" for n in range(40)]
    agent.host_policy(ingress=[{"fromCIDR": ranges, "toPorts": ports}])
    row = agent.write()
    assert row is not None
    assert list(agent.compiler.faults) == ["endpoint identity 1"]
    assert (row.policy.ingress_enforced, row.policy.egress_enforced) == (True, True)
    (server,) = (n for prefix, n in agent.compiler.engine.prefixes().items() if prefix == "203.0.113.9/32")
    assert row.policy.verdict(Direction.EGRESS, server, 6, 6443).allowed
    (allowed,) = (n for prefix, n in agent.compiler.engine.prefixes().items() if prefix == "198.51.100.7/32")
    assert not row.policy.verdict(Direction.INGRESS, allowed, 6, 22).allowed
    agent.host_policy(ingress=[{"fromCIDR": ranges[:8], "toPorts": ports}])
    row = agent.write()
    assert row is not None
    assert row.policy.verdict(Direction.INGRESS, allowed, 6, 22).allowed
    assert not agent.compiler.faults


def test_the_guard_knows_the_ports_of_peers_and_of_the_settings(tmp_path: Path, maps: MemoryMaps) -> None:
    (tmp_path / "south").write_text("endpoints:\n- https://south.mesh.cilium.io:32400\nca-file: x\n")
    settings = AgentSettings(
        clustermesh_config=tmp_path,
        host_policy_mesh_ports=(2390,),
        host_policy_open_ports=("22/TCP",),
        kubelet_port=10251,
    )
    facts = Agent(maps, settings=settings).guard.facts()
    assert facts.mesh_node_ports == (32379, 2390)
    assert facts.mesh_ports == (2379, 2390, 9880, 32379, 32400)
    assert ([str(spec) for spec in facts.open_ports], facts.kubelet_port) == (["22/TCP"], 10251)


async def test_a_name_that_nobody_knew_at_the_start_is_asked_again_and_never_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known: list[str] = []

    async def at_once(call: Callable[..., object], *arguments: object) -> object:
        return call(*arguments)

    monkeypatch.setattr("agent.policy.host.in_thread", at_once)
    db, clock, rings = AgentDB(NORTH, ClusterId(1), "own", ADDRESS), ManualClock(), list[int]()
    guard = HostGuard(
        db, AgentSettings(clustermesh_config=tmp_path), "https://api.test:6443", clock, lambda _host: tuple(known)
    )
    task = asyncio.create_task(guard.follow(lambda: rings.append(1)))
    assert guard.facts().api_servers == ()
    for answers, address, rung in (
        ("203.0.113.9", "203.0.113.9", 1),
        ("", "203.0.113.9", 1),
        ("203.0.113.8", "203.0.113.8", 2),
    ):
        known[:] = [answers] if answers else []
        await clock.run_for(5.0)
        assert (guard.facts().api_servers, len(rings)) == (((address, 6443),), rung)
    task.cancel()


@pytest.mark.parametrize("most", ["share", "map"])
def test_the_guard_is_whole_in_a_map_without_room(most: str) -> None:
    prefixes = [{"cidr": f"198.51.100.{n}/32"} for n in range(200)]
    spec = {"ingressDeny": [{"fromCIDRSet": prefixes}], "ingress": [{"fromEntities": ["world"]}]}
    whole = Agent(memory_maps())
    whole.node("edge")
    whole.host_policy(**spec)
    row = whole.write()
    assert row is not None
    guard = {value.rule_id for _, value in whole.maps.policy.items() if is_guard(value.precedence)}
    room = sum(is_guard(value.precedence) for _, value in whole.maps.policy.items()) + 20
    small = Agent(memory_maps({"mesh_policy": room} if most == "map" else {}), room if most == "share" else 1000)
    small.node("edge")
    small.host_policy(**spec)
    small.write()
    assert THE_NODE.address in small.target.failures
    assert {value.rule_id for _, value in small.maps.policy.items() if is_guard(value.precedence)} == guard
    assert all(is_guard(value.precedence) or value.deny for _, value in small.maps.policy.items())
    assert (held(small.maps) or THE_NODE).flags == BOTH  # type: ignore[union-attr]
