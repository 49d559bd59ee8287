# SPDX-License-Identifier: Apache-2.0
"""What histories reached, as counts: a generator, a fault or a checker that has gone stale reaches nothing and finds nothing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from meshkit.health import HealthLevel
from meshmodel.keys import CACHE, STATE, Kind
from meshmodel.private_keys import PRIVATE
from meshpeer.followed import FollowedCluster
from tests.simulation.world import World

_RECORD: Final = re.compile(rb"(?:%s|%s|%sstate/)([a-z]+)/v1/" % (STATE, CACHE, PRIVATE))
_NAMES: Final = re.compile(r"(north|south|east|west|middle|far)(-\d)?")


def note_programs(world: World) -> None:
    """How peers and parts of programs stand now, as agents say."""
    reached = world.loop.reached
    for _, node in world.nodes():
        agent = node.agent
        if agent is None or agent.core is None:
            continue
        for state in states_of(agent.features.get("mesh")):
            reached[f"peer {state.shown[0]}"] += 1
        for name, part in agent.core.health.snapshot().items():
            if part.level is not HealthLevel.OK:
                reached[f"health {part.level}: {_NAMES.sub('X', name)}"] += 1


def note_rest(world: World) -> None:
    """Which records and entries checkers looked at when faults were over."""
    reached = world.loop.reached
    for cluster in world.clusters.values():
        for key in cluster.store.entries:
            found = _RECORD.match(key)
            if found is not None and found[1].decode() in set(Kind):
                reached[f"record {_layout(key)} {found[1].decode()}"] += 1
        for node in cluster.nodes.values():
            maps = node.machine.maps
            ours = (0, cluster.id)
            reached.update("backend of " + _side(value.cluster_id in ours) for _, value in maps.backends.items())
            reached.update("address of " + _side(value.cluster_id in ours) for _, value in maps.ipcache.items())
            for key, head in maps.services.items():
                if key.slot == 0:
                    reached["service with backends" if head.count else "service without backends"] += 1
            reached["policy entry"] += maps.policy.info().count
            reached["endpoint"] += maps.endpoints_by_address.info().count


def states_of(mesh: object) -> list[FollowedCluster]:
    """Every cluster that an agent's mesh feature follows, its own included."""
    runner = getattr(mesh, "runner", None)
    return list(runner.states()) if runner is not None else []


def _side(is_ours: bool) -> str:
    return "our own" if is_ours else "a peer"


def _layout(key: bytes) -> str:
    return "mirrored" if key.startswith(CACHE) else "private" if key.startswith(PRIVATE) else "public"


def missing(reached: Counter[str]) -> list[str]:
    """What is expected of many histories of all kinds, and none reached."""
    return sorted(name for name in EXPECTED if not reached[name])


EXPECTED: Final = frozenset(
    """
    address of a peer; address of our own; backend of a peer; backend of our own; bookmark of a watch; crash between two turns
    crash between two writes; endpoint; fresh build differed until leases ended
    health degraded: map frontends; health degraded: networks of peers; health degraded: nodes of peers
    health degraded: peer X; identity of a pod
    map write failed
    peer connecting; peer disconnected; peer ready; peer withdrawn; policy entry; record mirrored endpointslices
    record mirrored identities; record mirrored ip; record mirrored nodes; record mirrored services
    record public endpointslices; record public identities; record public ip; record public nodes
    record public services; service with backends; service without backends; step break; step connect; step crash; step credential
    step cut; step deaf; step del clusterwide; step del namespace; step del networkpolicy; step del node
    step del policy; step del service; step del slice; step del tiered; step die; step disconnect; step ebb; step flood
    step forget; step sign new; step trust both; step trust new
    step freeze; step full; step heal; step hear; step jump; step kube down; step kube up; step lag; step leap
    step lease; step lose; step nopod; step norecord; step pod; step readdress; step put cidrgroup; step put clusterwide
    step put namespace; step put networkpolicy; step put node; step put policy; step put service; step put slice
    step put tiered; step record; step room; step slow; step starve; step store compact; step store cut
    step store down; step store restore; step store restore-anew; step store revoke; step store save; step store up
    step store wipe; step thaw; step wait; step watches; store put back from a backup, restore
    store put back from a backup, restore-anew; watch of an API server broken; watch told 410 Gone
    """.strip()
    .replace("\n    ", "; ")
    .split("; ")
)
"""Each came many times in either thousand, so a thousand without it say that something has gone stale."""
