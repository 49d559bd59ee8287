# SPDX-License-Identifier: Apache-2.0
"""A history is lines of text, one step each: what users, controllers and fate do to a world. What is not there is left alone.

put CLUSTER KIND JSON          the object is exactly this           del CLUSTER KIND KEY       it is gone
pod CLUSTER NODE JSON          the pod runs on the node             nopod CLUSTER KEY          it ends
record CLUSTER KEY VALUE       a tampered record in a store         norecord CLUSTER KEY
flood CLUSTER KIND N BYTES     N tampered records of that size     ebb CLUSTER KIND           they are gone
crash PROCESS                  gone at this instant                 start PROCESS
die PROCESS N                  crashes N map or store writes from now
break PROCESS N                crashes N turns of its loop from now freeze / thaw PROCESS
jump PROCESS SECONDS           the wall clock is put forward or back
leap PROCESS SECONDS           so much time passed that the process did not see
cut / heal SOURCE TARGET       of own.X, peer.X and kube.X          slow SOURCE TARGET SECONDS
deaf / hear A B                packets between two clusters are lost, or pass again
watches CLUSTER                every watch of its API breaks        forget CLUSTER             and cannot be resumed
lag CLUSTER PLURAL SECONDS     watches of a kind tell late
kube / store CLUSTER down|up   store CLUSTER cut|wipe|compact|revoke|save|restore|restore-anew
lease CLUSTER N                the store loses its Nth lease, counted round
lose SOURCE TARGET             the next answer is lost, what was asked is done
full NODE MAP N                the write after N more fails, once
starve NODE MAP N              every write after N more fails until faults end
room NODE MAP N                only N entries more fit until faults end
connect / disconnect A B       A follows B, or no more
readdress CLUSTER NODE IP      the node has another address
credential A B NAME            A's files for B's store: good, renewed, expired, stranger (whose?), misplaced (authority not of B)
trust A B WHICH                the authorities of B that A believes: old, both or new
sign A WHICH                   the authority of A that issues A's certificates: old or new
wait SECONDS
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from kube.resource import CCNP as CLUSTERWIDE
from kube.resource import (
    CIDR_GROUPS,
    CLUSTER_NETWORK_POLICIES,
    CNP,
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    SERVICES,
    Resource,
)
from tests.simulation.cluster import Cluster
from tests.simulation.credentials import Credential, Signer, Trust
from tests.simulation.world import World

KINDS: Final[dict[str, Resource]] = {
    "service": SERVICES,
    "slice": ENDPOINT_SLICES,
    "namespace": NAMESPACES,
    "node": NODES,
    "policy": CNP,
    "clusterwide": CLUSTERWIDE,
    "networkpolicy": NETWORK_POLICIES,
    "tiered": CLUSTER_NETWORK_POLICIES,
    "cidrgroup": CIDR_GROUPS,
}


FLOODS: Final = {
    "services": "cilium/state/services/v1/{cluster}/flood/",
    "nodes": "cilium/state/nodes/v1/{cluster}/flood-",
    "ip": "cilium/state/ip/v1/default/192.0.2.",
    "identities": "cilium/state/identities/v1/id/9999",
    "endpointslices": "cilium/state/endpointslices/v1/{cluster}/flood/",
    "serviceexports": "cilium/state/serviceexports/v1/{cluster}/flood/",
}
"""With what the keys of a flood of each kind begin."""


_SAYS_MORE: Final = {"put": 1, "del": 1, "store": 1, "kube": 1, "sign": 1, "trust": 2}


@dataclass(frozen=True, slots=True)
class Step:
    """One line. The last argument may hold spaces."""

    verb: str
    args: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.verb, *self.args))


def parse(text: str) -> list[Step]:
    """Raises: ValueError naming a line that is no step."""
    return [_parse_line(line.strip()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def step(verb: str, *args: object) -> Step:
    """Objects are written as JSON."""
    return Step(verb, tuple(a if isinstance(a, str) else json.dumps(a, separators=(",", ":")) for a in args))


async def apply(world: World, what: Step) -> None:
    """The step happened."""
    world.loop.reached[f"step {kind_of(what)}"] += 1
    done = VERBS[what.verb][1](world, *what.args)
    if done is not None:
        await done


def kind_of(what: Step) -> str:
    """The verb, and what it is about where that says more."""
    at = _SAYS_MORE.get(what.verb)
    return what.verb if at is None else f"{what.verb} {what.args[at]}"


def _parse_line(line: str) -> Step:
    verb, _, rest = line.partition(" ")
    if verb not in VERBS:
        raise ValueError(f"no such step: {line}")
    return Step(verb, tuple(rest.split(" ", VERBS[verb][0] - 1)))


# ---- objects


def _put(world: World, cluster: str, kind: str, manifest: str) -> None:
    where, obj = world.clusters[cluster], json.loads(manifest)
    if kind == "node":
        where.controllers.put_node(obj)
    elif where.has_namespace(obj):
        where.kube.apply(KINDS[kind], obj)
    where.controllers.settle_soon()


def _del(world: World, cluster: str, kind: str, key: str) -> None:
    where = world.clusters[cluster]
    where.kube.delete(KINDS[kind], key)
    where.controllers.settle_soon()


def _pod(world: World, cluster: str, node: str, manifest: str) -> None:
    where = world.clusters[cluster]
    if node in where.nodes and where.has_namespace(json.loads(manifest)):
        where.controllers.run_pod(json.loads(manifest), node)


def _nopod(world: World, cluster: str, key: str) -> None:
    world.clusters[cluster].controllers.end_pod(key)


def _readdress(world: World, cluster: str, node: str, ip: str) -> None:
    where = world.clusters[cluster]
    if node in where.nodes:
        where.controllers.readdress(node, ip)


def _credential(world: World, a: str, b: str, name: str) -> None:
    world.clusters[a].set_credential(b, Credential(name))


def _trust(world: World, a: str, b: str, which: str) -> None:
    world.clusters[a].set_trust(b, Trust(which))


def _sign(world: World, a: str, which: str) -> None:
    world.clusters[a].sign(Signer(which))


def _record(world: World, cluster: str, key: str, value: str) -> None:
    where = world.clusters[cluster]
    where.tampered.add(key.encode())
    where.store.commit({key.encode(): value.encode()}, 0)


def _norecord(world: World, cluster: str, key: str) -> None:
    where = world.clusters[cluster]
    where.tampered.add(key.encode())
    where.store.commit({key.encode(): None}, 0)


def _flood(world: World, cluster: str, kind: str, count: str, size: str) -> None:
    where, value = world.clusters[cluster], b"{}".ljust(int(size))
    records = {f"{FLOODS[kind].format(cluster=cluster)}{i}".encode(): value for i in range(int(count))}
    where.tampered |= records.keys()
    where.store.commit(records, 0)


def _ebb(world: World, cluster: str, kind: str) -> None:
    where, prefix = world.clusters[cluster], FLOODS[kind].format(cluster=cluster).encode()
    where.store.commit(dict.fromkeys([key for key in where.store.entries if key.startswith(prefix)]), 0)


# ---- programs


def _crash(world: World, process: str) -> None:
    world.crash(process)


def _start(world: World, process: str) -> None:
    for cluster in world.clusters.values():
        if process == f"{cluster.name}-apiserver":
            world.start_apiserver(cluster)
        elif process in cluster.nodes:
            world.start_agent(cluster, cluster.nodes[process])


def _die(world: World, process: str, writes: str) -> None:
    found = world.processes().get(process)
    if found is not None:
        found.writes.left = int(writes)


def _break(world: World, process: str, turns: str) -> None:
    found = world.processes().get(process)
    if found is not None:
        found.kill_after(int(turns))


def _jump(world: World, process: str, seconds: str) -> None:
    world.jump(process, float(seconds))


def _leap(world: World, process: str, seconds: str) -> None:
    found = world.processes().get(process)
    if found is not None and not world.loop.is_frozen(process):
        found.leap(float(seconds))


def _freeze(world: World, process: str) -> None:
    if process in world.processes():
        world.loop.freeze(process)


def _thaw(world: World, process: str) -> None:
    world.loop.thaw(process)


# ---- the wire, stores and API servers


def _cut(world: World, source: str, target: str) -> None:
    world.set_cut(source, target, is_cut=True)


def _heal(world: World, source: str, target: str) -> None:
    world.set_cut(source, target, is_cut=False)


def _slow(world: World, source: str, target: str, seconds: str) -> None:
    world.wire.set_slow(source, target, (float(seconds) / 2, float(seconds)) if float(seconds) else None)


def _deaf(world: World, a: str, b: str) -> None:
    world.deaf.add(frozenset((a, b)))


def _hear(world: World, a: str, b: str) -> None:
    world.deaf.discard(frozenset((a, b)))


def _watches(world: World, cluster: str) -> None:
    world.clusters[cluster].kube.cut()


def _forget(world: World, cluster: str) -> None:
    world.clusters[cluster].kube.forget_history()
    world.clusters[cluster].kube.cut()


def _lag(world: World, cluster: str, plural: str, seconds: str) -> None:
    world.clusters[cluster].kube.lag_s[plural] = float(seconds)


def _kube(world: World, cluster: str, state: str) -> None:
    kube = world.clusters[cluster].kube
    kube.is_up = state == "up"
    if not kube.is_up:
        kube.cut()


def _store(world: World, cluster: str, what: str) -> None:
    where = world.clusters[cluster]
    store = where.store
    match what:
        case "save":
            where.backup = store.snapshot()
        case "restore" | "restore-anew":
            if where.backup is not None:
                world.loop.reached[f"store put back from a backup, {what}"] += 1
                where.put_back(where.backup, keep_id=what == "restore")
        case "down":
            store.stop()
        case "up":
            store.start()
        case "cut":
            store.cut()
        case "wipe":
            store.wipe()
        case "compact":
            store.compact()
        case "revoke":
            for lease in list(store.leases):
                store.revoke(lease)


def _lease(world: World, cluster: str, number: str) -> None:
    store = world.clusters[cluster].store
    if store.leases:
        store.revoke(sorted(store.leases)[int(number) % len(store.leases)])


def _lose(world: World, source: str, target: str) -> None:
    found = world.processes().get(source)
    for to, link in found.links if found is not None else ():
        if to == target:
            link.lose_answers = 1


def _full(world: World, node: str, name: str, writes: str) -> None:
    for _, found in world.nodes():
        if found.name == node:
            getattr(found.machine.maps, name).fail_after(int(writes))


def _starve(world: World, node: str, name: str, writes: str) -> None:
    for _, found in world.nodes():
        if found.name == node:
            getattr(found.machine.maps, name).fail_after(int(writes), for_good=True)


def _room(world: World, node: str, name: str, more: str) -> None:
    for _, found in world.nodes():
        if found.name == node:
            found.machine.set_room(name, int(more))


def _connect(world: World, a: str, b: str) -> None:
    world.clusters[a].set_peer(b, is_peer=True)


def _disconnect(world: World, a: str, b: str) -> None:
    world.clusters[a].set_peer(b, is_peer=False)


def _wait(_world: World, seconds: str) -> Awaitable[None]:
    return asyncio.sleep(float(seconds))


VERBS: Final[dict[str, tuple[int, Callable[..., Any]]]] = {
    "put": (3, _put),
    "del": (3, _del),
    "pod": (3, _pod),
    "nopod": (2, _nopod),
    "readdress": (3, _readdress),
    "credential": (3, _credential),
    "trust": (3, _trust),
    "sign": (2, _sign),
    "record": (3, _record),
    "norecord": (2, _norecord),
    "flood": (4, _flood),
    "ebb": (2, _ebb),
    "crash": (1, _crash),
    "start": (1, _start),
    "die": (2, _die),
    "break": (2, _break),
    "jump": (2, _jump),
    "leap": (2, _leap),
    "freeze": (1, _freeze),
    "thaw": (1, _thaw),
    "cut": (2, _cut),
    "heal": (2, _heal),
    "slow": (3, _slow),
    "deaf": (2, _deaf),
    "hear": (2, _hear),
    "watches": (1, _watches),
    "forget": (1, _forget),
    "lag": (3, _lag),
    "kube": (2, _kube),
    "store": (2, _store),
    "lose": (2, _lose),
    "full": (3, _full),
    "starve": (3, _starve),
    "room": (3, _room),
    "lease": (2, _lease),
    "connect": (2, _connect),
    "disconnect": (2, _disconnect),
    "wait": (1, _wait),
}


def show(history: Iterable[Step]) -> str:
    return "\n".join(str(each) for each in history)


__all__ = ["KINDS", "VERBS", "Cluster", "Step", "apply", "kind_of", "parse", "show", "step"]
