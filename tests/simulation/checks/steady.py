# SPDX-License-Identifier: Apache-2.0
"""What nobody changed stays: a Service's own live pods are never taken out, and ids stay while what they name exists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kube.resource import ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES
from tests.simulation import truth
from tests.simulation.checks.calm import Calm, have_ended, living_leases
from tests.simulation.checks.services import shown
from tests.simulation.cluster import Cluster, Node
from tests.simulation.kept import kept
from tests.simulation.truth import Place
from tests.simulation.world import World

STEADY_S: Final = 5.0
Frontend = tuple[str, int, str]
Slot = tuple[str, Frontend, Place]
Ids = dict[tuple[str | int, ...], int]
"""Ids by what they name."""


class SteadyBackends:
    """Once a node leads a service to a ready pod of its own cluster, it does so until the pod, the service or its ready
    state changes, whatever happens to programs, stores, links and API servers. Services with affinity may leave it, also when
    they have none any more: until all has been quiet for a while, a node may hear of the affinity late.
    """

    def __init__(self, world: World) -> None:
        self._calm = Calm(world)
        self._seen: set[Slot] = set()
        self._steered: dict[Frontend, float] = {}
        """What has affinity, or had it when this was looked at last."""

    def __call__(self, world: World) -> Iterable[str]:
        self._calm.look(world)
        now = world.now()
        self._steered |= {frontend: now for cluster in world.clusters.values() for frontend in _steered(cluster)}
        if now - self._calm.since_s >= STEADY_S:
            self._steered = {frontend: s for frontend, s in self._steered.items() if now - s < STEADY_S}
        slots = (slot for cluster in world.clusters.values() for slot in _wanted(cluster))
        wanted = {slot for slot in slots if slot[1] not in self._steered}
        there = _led_to(world)
        lost = (self._seen & wanted) - there
        self._seen = there & wanted
        for node, frontend, place in sorted(lost):
            yield f"{node}: {frontend} does not lead to {place} any more, which is ready all the time"


@kept(lambda cluster: cluster.kube.store.changed(SERVICES))
def _steered(cluster: Cluster) -> list[Frontend]:
    """Where Services with affinity are reached."""
    return [
        (service["spec"]["clusterIP"], port["port"], port.get("protocol") or "TCP")
        for service in cluster.kube.objects(SERVICES)
        if service["spec"].get("clusterIP") and truth.annotation(service, truth.AFFINITY, "none") != "none"
        for port in service["spec"].get("ports") or []
    ]


@kept(lambda cluster: cluster.kube.store.changed(SERVICES, ENDPOINT_SLICES))
def _wanted(cluster: Cluster) -> set[Slot]:
    """What nodes should lead to in their own cluster, by what people asked for."""
    found: set[Slot] = set()
    for service in cluster.kube.objects(SERVICES):
        if not service["spec"].get("clusterIP") or truth.annotation(service, truth.AFFINITY, "none") != "none":
            continue
        ready = truth.endpoints(cluster, truth.key_of(service))
        for port in service["spec"].get("ports") or []:
            protocol = port.get("protocol") or "TCP"
            frontend = (service["spec"]["clusterIP"], port["port"], protocol)
            for place in truth.fitting(ready, port.get("name") or "", protocol):
                found |= {(node, frontend, place) for node in cluster.nodes}
    return found


@kept(lambda world: [(n.machine.maps.services.writes, n.machine.maps.backends.writes) for _, n in world.nodes()])
def _led_to(world: World) -> set[Slot]:
    """What the maps of all nodes lead to now."""
    return {
        (node.name, frontend, place)
        for _, node in world.nodes()
        for frontend, places in shown(node.machine).items()
        for place in places
    }


class SteadyPeers:
    """Once a node leads a shared service to a ready pod of a peer, while nothing failed, it does so until people change that,
    whatever happens to programs, stores, links and API servers: nothing is pruned before it is known to be gone.

    Ends with a lease of either store, on which what the node knows hangs, with packets between clusters that are lost, and with
    clusters that do not follow each other. Says nothing of services with affinity, nor of peers whose records were tampered with.
    """

    def __init__(self, world: World) -> None:
        self._calm = Calm(world)
        self._wanted: dict[Slot, float] = {}
        self._held: set[Slot] = set()
        self._leases = living_leases(world)

    def __call__(self, world: World) -> Iterable[str]:
        now, places = world.now(), _led_to(world)
        self._calm.look(world)
        self._wanted = {slot: self._wanted.get(slot, now) for slot in _of_peers(world)}
        leases = living_leases(world)
        if have_ended(self._leases, leases) or world.deaf:
            self._calm.disturb(world)
            self._held = set()
        self._leases = leases
        self._held &= self._wanted.keys()
        for node, frontend, place in sorted(self._held - places):
            yield f"{node}: {frontend} does not lead to {place} of a peer any more, which is ready and shared all the time"
        self._held &= places
        if now - self._calm.since_s >= STEADY_S:
            self._held |= {slot for slot, since_s in self._wanted.items() if now - since_s >= STEADY_S} & places


def _asked_of_peers(world: World) -> list[object]:
    kinds = (SERVICES, ENDPOINT_SLICES, PODS, NAMESPACES)
    return [(c.kube.store.changed(*kinds), sorted(c.peers), bool(c.tampered)) for c in world.clusters.values()]


@kept(_asked_of_peers)
def _of_peers(world: World) -> dict[Slot, None]:
    """What nodes should lead to in other clusters, by what people asked for."""
    found: dict[Slot, None] = {}
    for cluster in world.clusters.values():
        for service in () if cluster.tampered else cluster.kube.objects(SERVICES):
            if not truth.is_global(service) or not service["spec"].get("clusterIP"):
                continue
            if truth.annotation(service, truth.AFFINITY, "none") != "none":
                continue
            key = truth.key_of(service)
            for name in sorted(cluster.peers):
                peer = world.clusters[name]
                same = peer.kube.store.get(SERVICES, key)
                if peer.tampered or same is None or not truth.is_shared(peer, same):
                    continue
                living = {
                    pod["status"]["podIP"] for pod in truth.pods(peer)
                }  # slices hear of a pod's end later than others
                ready = {each for each in truth.endpoints(peer, key) if each.address in living}
                for port in service["spec"].get("ports") or []:
                    protocol = port.get("protocol") or "TCP"
                    frontend = (service["spec"]["clusterIP"], port["port"], protocol)
                    for place in truth.fitting(ready, port.get("name") or "", protocol):
                        found |= dict.fromkeys((node, frontend, place) for node in cluster.nodes)
    return found


class StableIds:
    """Ids of backends and of endpoints name the same thing as long as it is in the maps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids: dict[str, Ids] = {}
        self._writes: dict[str, tuple[int, int]] = {}

    def __call__(self, world: World) -> Iterable[str]:
        for _, node in world.nodes():
            maps = node.machine.maps
            writes = (maps.backends.writes, maps.endpoints_by_address.writes)
            if self._writes.get(node.name) == writes:
                continue
            self._writes[node.name] = writes
            yield from self._compare("backend", f"{node.name} backends", _backend_ids(node))
            yield from self._compare("endpoint", f"{node.name} endpoints", _endpoint_ids(node))

    def _compare(self, what: str, where: str, now: Ids) -> Iterable[str]:
        before, self._ids[where] = self._ids.get(where, {}), now
        for key in sorted(before.keys() & now.keys()):
            if before[key] != now[key]:
                yield f"{what} {key} had id {before[key]} and has {now[key]}"


def _backend_ids(node: Node) -> Ids:
    return {(node.name, v.address, v.port, v.protocol): k.id for k, v in node.machine.maps.backends.items()}


def _endpoint_ids(node: Node) -> Ids:
    return {(node.name, k.address, v.ifindex): v.endpoint_id for k, v in node.machine.maps.endpoints_by_address.items()}
