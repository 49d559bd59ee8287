# SPDX-License-Identifier: Apache-2.0
"""At rest, who asked for what is not given finds it said: on the object by an Event, or in a program's status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from clustermesh_apiserver.status.program_status import problems
from kube.resource import CNP, ENDPOINT_SLICES, EVENTS, NODES, SERVICES, KubeObject
from tests.simulation import truth
from tests.simulation.actors.policies import BROKEN
from tests.simulation.checks.records import is_ip
from tests.simulation.cluster import Cluster
from tests.simulation.world import World

AFFINITIES: Final = ("none", "local", "remote", "")
WEIGHTS: Final = ("mesh.clustermesh.io/cluster-weights",)


def check_told(world: World) -> Iterable[str]:
    for cluster in world.clusters.values():
        said = _said(cluster)
        for what, words in _wanted(world, cluster):
            if not any(all(word in text for word in words) for text in said):
                yield f"{cluster.name}: nobody says that {what}: no sentence with {', '.join(words)}"


def _wanted(world: World, cluster: Cluster) -> Iterable[tuple[str, tuple[str, ...]]]:
    """What is not as it was asked for, and the words that a sentence about it has."""
    for service in cluster.kube.objects(SERVICES):
        yield from _odd_annotations(service)
        given = truth.balancer_addresses(world, cluster, service)
        is_balanced = service["spec"].get("clusterIP") not in (None, "", "None")
        for address in sorted(truth.claimed_addresses(service) - given if is_balanced else ()):
            yield f"{truth.key_of(service)} does not get {address}", (truth.key_of(service), address)
    for piece in cluster.kube.objects(ENDPOINT_SLICES):
        for endpoint in piece.get("endpoints") or []:
            for address in endpoint["addresses"]:
                if not truth.is_ipv4(address):
                    yield f"{truth.key_of(piece)} has no address {address}", (piece["metadata"]["name"], address)
    for policy in cluster.kube.objects(CNP):
        if policy["metadata"]["name"] == BROKEN:
            yield f"{truth.key_of(policy)} is refused", (BROKEN, policy["metadata"]["namespace"])
    for node in cluster.kube.objects(NODES):
        for address in node["status"]["addresses"]:
            if address["type"] != "Hostname" and not is_ip(address["address"]):
                name = node["metadata"]["name"]
                yield f"{name} does not have {address['address']}", (name, address["address"])


def _odd_annotations(service: KubeObject) -> Iterable[tuple[str, tuple[str, ...]]]:
    key = truth.key_of(service)
    affinity = truth.annotation(service, truth.AFFINITY, "none")
    if affinity not in AFFINITIES:
        yield f"{key} has no affinity {affinity}", (key, affinity)
    for entry in filter(None, truth.annotation(service, WEIGHTS, "").split(",")):
        if not entry.partition("=")[2].strip().isdecimal():
            yield f"{key} has no weight {entry}", (key, entry)
    if truth.is_global(service) and service["spec"].get("type") == "ExternalName":
        yield f"{key} is not shared", (key, "ExternalName")


def _said(cluster: Cluster) -> list[str]:
    """Every sentence of Events about what is there, and of agents' problems."""
    found = []
    for event in cluster.kube.objects(EVENTS):
        about = event["involvedObject"]
        found.append(f"{about.get('namespace', '')}/{about['name']}: {event['message']}")
    if cluster.apiserver is not None and cluster.apiserver.apiserver is not None:
        found += problems(cluster.apiserver.apiserver)
    for node in cluster.nodes.values():
        if node.agent is not None:
            found += [text for feature in node.agent.features.values() for text in feature.problems()]
    return found
