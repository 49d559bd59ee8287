# SPDX-License-Identifier: Apache-2.0
"""At rest an agent's maps equal those of an agent that starts now on empty maps, and a store's records those of a new store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import zstandard

from kvstore.memoryserver import MemoryServer
from meshmodel import keys
from tests.simulation.checks.services import shown
from tests.simulation.cluster import Cluster, Node
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import World

BUILD_S: Final = (1.0, 1.0, 2.0, 4.0, 8.0)
"""How long programs that start now have to catch up; they are compared after each pause until they have."""
APISERVERS: Final = 0.4
"""In so many of the histories the program that starts is an apiserver, in the others an agent."""
ZSTD: Final = b"(\xb5/\xfd"


async def check_against_fresh_builds(world: World) -> list[str]:
    """One node's maps or one cluster's records, chosen by the seed: a start costs as much as a history."""
    chance = world.rng_of("twin")
    cluster, node = chance.choice(world.nodes())
    compare, program = (_build_agent, _build_apiserver)[chance.random() < APISERVERS](world, cluster, node)
    found: list[str] = []
    for pause_s in BUILD_S:
        await asyncio.sleep(pause_s)
        found = compare()
        if not found:
            break
    if program.ended:
        found.append(f"{program.name} ended: {program.ended}")
    program.kill()
    return found


Build = tuple[Callable[[], list[str]], Process]
"""What compares it with what runs, and the program that starts."""


def _build_agent(world: World, cluster: Cluster, node: Node) -> Build:
    twin = Node(node.name, node.ip, node.pod_cidr)
    twin.machine.interfaces = dict(node.machine.interfaces)
    process = world.build_agent(cluster, twin)
    return lambda: _compare(f"{node.name}: map", dump(node.machine), dump(twin.machine)), process


def _build_apiserver(world: World, cluster: Cluster, _node: Node) -> Build:
    store = MemoryServer(cluster.store.clock)
    process = world.build_apiserver(cluster, store)
    return (
        lambda: _compare(f"{cluster.name}: store", records(cluster, cluster.store), records(cluster, store)),
        process,
    )


def dump(machine: Machine) -> dict[str, Any]:
    """The maps without what may differ between two builds: ids, and backends that only open connections need."""
    maps = machine.maps
    address_of = {v.endpoint_id: k.address for k, v in maps.endpoints_by_address.items()}
    found: dict[str, Any] = {f"service {where}": sorted(places) for where, places in shown(machine).items()}
    found |= {f"ipcache {key.prefix}": value for key, value in maps.ipcache.items()}
    for key, value in maps.endpoints_by_address.items():
        found[f"endpoint {key.address}"] = value._replace(endpoint_id=0, policy_revision=0)
    for rule, verdict in maps.policy.items():
        where = rule._replace(endpoint_id=0)
        found[f"policy {address_of.get(rule.endpoint_id, rule.endpoint_id)} {where}"] = verdict.deny
    return found


def records(cluster: Cluster, store: MemoryServer) -> dict[str, Any]:
    """What a store says of clusters, without locks, leases, heartbeats, times and what was put there by hand."""
    left_out = (keys.HEARTBEAT, keys.MIRROR_LOCK_PREFIX)
    found: dict[str, Any] = {}
    for key, entry in store.entries.items():
        if key.startswith(left_out) or key in cluster.tampered:
            continue
        is_time = key.startswith((keys.SYNCED_PREFIX, b"clustermesh/private/synced/"))
        found[key.decode("utf-8", "replace")] = b"" if is_time else readable(entry.value)
    return found


def readable(value: bytes) -> str:
    """A record as text; what is compressed is unpacked."""
    if value.startswith(ZSTD):
        value = zstandard.ZstdDecompressor().decompress(value, max_output_size=1 << 20)
    return value.decode("utf-8", "backslashreplace")


def _compare(what: str, is_: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    found = []
    for key in sorted(is_.keys() | fresh.keys()):
        if key not in fresh:
            found.append(f"{what} has {key} = {is_[key]}, which a fresh build has not")
        elif key not in is_:
            found.append(f"{what} has no {key}, which a fresh build has: {fresh[key]}")
        elif is_[key] != fresh[key]:
            found.append(f"{what} has {key} = {is_[key]}, a fresh build {fresh[key]}")
    return found
