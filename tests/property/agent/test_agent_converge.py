# SPDX-License-Identifier: Apache-2.0
"""Law: whatever order things arrive in, and wherever writing stops, the maps end as if built fresh, and no single write on the
way shows a packet a hole (the memory maps check that after every write)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "agent"))

from agent_world import World

from agent.datapath.layout import BackendState
from agent.tables import PeerHealth
from kvstore.store import Phase
from meshmodel.keys import Kind
from meshmodel.names import ClusterName, ServiceName
from tests.support.effort import examples

NAMES = ("a", "b")
PEERS = {"south": 2, "east": 3}
MAPS = ("services", "backends", "members", "ipcache")

numbers = st.lists(st.integers(1, 6), max_size=6).map(sorted)
affinities = st.sampled_from(["none", "local", "remote", "sideways"])
operation = st.one_of(
    st.tuples(st.just("service"), st.sampled_from(NAMES), affinities, st.booleans(), st.sampled_from([0, 60])),
    st.tuples(st.just("unservice"), st.sampled_from(NAMES)),
    st.tuples(st.just("local"), st.sampled_from(NAMES), numbers, st.sampled_from(["", ",terminating", ",sick"])),
    st.tuples(st.just("put"), st.sampled_from(list(PEERS)), st.sampled_from(NAMES), numbers, st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(list(PEERS)), st.sampled_from(NAMES)),
    st.tuples(st.just("garbage"), st.sampled_from(list(PEERS)), st.sampled_from(NAMES)),
    st.tuples(st.just("blip"), st.sampled_from(list(PEERS))),
    st.tuples(st.just("ip"), st.sampled_from(list(PEERS)), st.integers(1, 6), st.integers(1, 3)),
    st.tuples(st.just("withdraw"), st.sampled_from(list(PEERS)), st.booleans()),
    st.tuples(st.just("fail"), st.sampled_from(MAPS), st.integers(0, 8)),
    st.tuples(st.just("restart")),
)
START: list[tuple[object, ...]] = [
    ("service", "a", "none", True, 0),
    ("local", "a", [1, 2], ""),
    ("put", "south", "a", [1, 2], True),
    ("settle",),
]


def service(name: str, affinity: str, is_global: bool, timeout_s: int) -> dict[str, object]:
    annotations = {"service.cilium.io/affinity": affinity} | ({"service.cilium.io/global": "true"} if is_global else {})
    spec: dict[str, object] = {"clusterIP": f"10.0.0.{ord(name)}", "ports": [{"port": 80}, {"port": 81, "name": "x"}]}
    if timeout_s:
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout_s}}}
    spec["externalIPs"] = ["192.0.2.1"]
    return {"metadata": {"namespace": "t", "name": name, "annotations": annotations}, "spec": spec}


def record(peer: str, name: str, found: list[int], shared: bool) -> bytes:
    ports = {"": {"Protocol": "TCP", "Port": 80}, "x": {"Protocol": "TCP", "Port": 90}}
    backends = {f"10.{PEERS[peer]}.0.{n}": ports for n in found}
    body = {"cluster": peer, "clusterID": PEERS[peer], "namespace": "t", "name": name, "shared": shared}
    return json.dumps({**body, "backends": backends}).encode()


class Inputs:
    """What has been said so far: enough to build a fresh agent from."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, object]] = {}
        self.local: dict[str, list[str]] = {}
        self.records: dict[tuple[str, str], bytes] = {}
        self.ips: dict[tuple[str, str], bytes] = {}
        self.withdrawn: dict[str, bool] = {}

    def replay(self) -> World:
        world = fresh()
        for manifest in self.services.values():
            world.service(manifest)
        for name, backends in self.local.items():
            world.local(f"t/{name}", *backends)
        for (peer, name), value in self.records.items():
            world.feed(peer, Kind.SERVICES, Phase.CHANGES, (f"t/{name}", value))
        for (peer, address), value in self.ips.items():
            world.feed(peer, Kind.IPS, Phase.CHANGES, (address, value))
        for peer, is_withdrawn in self.withdrawn.items():
            withdraw(world, peer, is_withdrawn)
        world.settle()
        return world


def fresh() -> World:
    world = World()
    for name, cluster_id in PEERS.items():
        world.peer(name, cluster_id)
    return world


def withdraw(world: World, peer: str, is_withdrawn: bool) -> None:
    row = world.db.peers.get(ClusterName(peer))
    assert row is not None
    with world.db.write():
        world.lb.set_peer(PeerHealth(row.name, row.cluster_id, is_withdrawn))


def step(world: World, inputs: Inputs, what: tuple[object, ...]) -> None:  # noqa: C901
    match what:
        case ("service", str(name), affinity, is_global, timeout_s):
            inputs.services[name] = service(name, str(affinity), bool(is_global), int(str(timeout_s)))
            world.service(inputs.services[name])
        case ("unservice", str(name)):
            inputs.services.pop(name, None)
            with world.db.write():
                world.lb.delete_service(ServiceName("t", name))
        case ("local", str(name), list(found), mark):
            inputs.local[name] = [f"10.1.0.{n}:80,,x{mark}" for n in found]
            world.local(f"t/{name}", *inputs.local[name])
        case ("put", str(peer), str(name), list(found), bool(shared)):
            inputs.records[peer, name] = record(peer, name, found, shared)
            world.feed(peer, Kind.SERVICES, Phase.CHANGES, (f"t/{name}", inputs.records[peer, name]))
        case ("delete", str(peer), str(name)):
            inputs.records.pop((peer, name), None)
            world.feed(peer, Kind.SERVICES, Phase.CHANGES, (f"t/{name}", None))
        case ("garbage", str(peer), str(name)):
            inputs.records[peer, name] = b"{not json"
            world.feed(peer, Kind.SERVICES, Phase.CHANGES, (f"t/{name}", b"{not json"))
        case ("blip", str(peer)):
            world.feed(peer, Kind.SERVICES, Phase.LISTING)
            for (owner, name), value in sorted(inputs.records.items()):
                if owner == peer:
                    world.feed(peer, Kind.SERVICES, Phase.CHANGES, (f"t/{name}", value))
            world.feed(peer, Kind.SERVICES, Phase.LISTED)
        case ("ip", str(peer), number, identity):
            address = f"10.9.0.{number}"  # both peers claim it: the lower id wins, whoever came first
            value = json.dumps({"IP": address, "HostIP": "172.18.0.5", "ID": PEERS[peer] << 16 | int(str(identity))})
            inputs.ips[peer, address] = value.encode()
            world.feed(peer, Kind.IPS, Phase.CHANGES, (address, value.encode()))
        case ("withdraw", str(peer), bool(is_withdrawn)):
            inputs.withdrawn[peer] = is_withdrawn
            withdraw(world, peer, is_withdrawn)
        case ("fail", str(name), int(after)):
            getattr(world.maps, name).fail_after(after)
        case ("restart",):
            world.restart_target()
        case ("settle",):
            world.settle()


@settings(max_examples=examples(150))
@given(st.lists(st.tuples(operation, st.booleans()), max_size=25))
def test_any_order_and_any_interruption_ends_like_a_fresh_build(
    operations: list[tuple[tuple[object, ...], bool]],
) -> None:
    world, inputs = fresh(), Inputs()
    for what in START:
        step(world, inputs, what)
    for what, is_settled in operations:
        step(world, inputs, what)
        if is_settled:
            world.settle()
    world.settle()
    again = inputs.replay()
    assert world.dump_maps(with_kept=False) == again.dump_maps(with_kept=False)
    assert world.dump_ipcache() == again.dump_ipcache()
    if world.db.initialized and all(r.status().is_pruned for r in world.reconcilers):
        assert not any(world.target.prune(world.db.frontends))
        check_no_leftovers(world)


def check_no_leftovers(world: World) -> None:
    """Every backend and member entry belongs to a slot (or drains); nothing else is in the maps."""
    slots = {(v.service_id, v.backend_id) for k, v in world.maps.services.items() if k.slot}
    members = {(k.service_id, k.backend_id) for k, _ in world.maps.members.items()}
    assert members == slots, "members differ from slots"
    held = {key.id: value for key, value in world.maps.backends.items()}
    draining = [t for row in world.db.frontends.rows() for t in row.draining]
    used = {backend for _, backend in slots}
    assert used <= held.keys()
    kept = [value for number, value in held.items() if value.state == BackendState.MAINTENANCE]
    listed = {b.address for row in world.db.backends.rows() for b in row.backends}
    assert {value.address for value in kept} <= listed | {
        p.prefix.removesuffix("/32") for p in world.db.prefixes.rows()
    }
    assert len(held) <= len(used) + len(set(draining)) + len(kept)
