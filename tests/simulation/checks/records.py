# SPDX-License-Identifier: Apache-2.0
"""At rest the records of every cluster are what its Kubernetes objects say, read by the format of docs/wire.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from kube.resource import NODES, SERVICES
from tests.simulation import truth
from tests.simulation.checks.policies import pods_as_peers
from tests.simulation.checks.twin import readable
from tests.simulation.cluster import Cluster
from tests.simulation.world import World

SERVICE: Final = "cilium/state/services/v1/"
IP: Final = "cilium/state/ip/v1/default/"
IDENTITY: Final = "cilium/state/identities/v1/id/"
NODE: Final = "cilium/state/nodes/v1/"
Facts = dict[str, Any]
NOWHERE: Final = "no such record"


def check_records(world: World) -> Iterable[str]:
    """Services that are shared, pods of namespaces that are told of, nodes; what was tampered with by hand is left out."""
    for cluster in world.clusters.values():
        if cluster.tampered:
            continue
        found = {key.decode("utf-8", "replace"): readable(entry.value) for key, entry in cluster.store.entries.items()}
        for what, wanted, there in (
            ("service", _services(cluster), _service_records(cluster, found)),
            ("pod", _pods(cluster), _pod_records(found)),
            ("node", _nodes(cluster), _node_records(found)),
        ):
            for name in sorted(wanted.keys() | there.keys()):
                if wanted.get(name) != there.get(name):
                    said, meant = there.get(name, NOWHERE), wanted.get(name, NOWHERE)
                    yield f"{cluster.name}: record of {what} {name} says {said}, Kubernetes {meant}"


def _services(cluster: Cluster) -> Facts:
    """The ready endpoints of every shared service, as address, port name, protocol and port."""
    found: Facts = {}
    for service in cluster.kube.objects(SERVICES):
        if truth.is_shared(cluster, service):
            ready = truth.endpoints(cluster, truth.key_of(service))
            found[truth.key_of(service)] = sorted((e.address, e.name, e.protocol, e.port) for e in ready)
    return found


def _service_records(cluster: Cluster, found: dict[str, str]) -> Facts:
    records: Facts = {}
    for key, text in found.items():
        if key.startswith(SERVICE):
            record = json.loads(text)
            ports = [
                (address, name, port["Protocol"], port["Port"])
                for address, named in record["backends"].items()
                for name, port in named.items()
            ]
            records[key.removeprefix(f"{SERVICE}{cluster.name}/")] = sorted(ports)
    return records


def _pods(cluster: Cluster) -> Facts:
    """Node address, name and labels of every pod that other clusters hear of, by its address."""
    labels = {address: frozenset(who.labels) for address, who in pods_as_peers(cluster, is_abroad=True)}
    by_address = {pod["status"]["podIP"]: pod for pod in truth.pods(cluster)}
    return {
        address: (by_address[address]["status"]["hostIP"], truth.key_of(by_address[address]), sorted(known))
        for address, known in labels.items()
    }


def _pod_records(found: dict[str, str]) -> Facts:
    identities = {key.removeprefix(IDENTITY): text for key, text in found.items() if key.startswith(IDENTITY)}
    records: Facts = {}
    for key, text in found.items():
        if key.startswith(IP):
            record = json.loads(text)
            labels = sorted(part for part in identities.get(str(record["ID"]), "").split(";") if part)
            records[record["IP"]] = (record["HostIP"], f"{record['K8sNamespace']}/{record['K8sPodName']}", labels)
    return records


def _nodes(cluster: Cluster) -> Facts:
    """The addresses of every node."""
    found: Facts = {}
    for node in cluster.kube.objects(NODES):
        told = {a["address"] for a in node["status"]["addresses"] if a["type"] != "Hostname"}
        found[node["metadata"]["name"]] = sorted(address for address in told if is_ip(address))
    return found


def is_ip(text: str) -> bool:
    return ":" in text or truth.is_ipv4(text)


def _node_records(found: dict[str, str]) -> Facts:
    records = [json.loads(text) for key, text in found.items() if key.startswith(NODE)]
    return {record["Name"]: sorted({a["IP"] for a in record["IPAddresses"]}) for record in records}
