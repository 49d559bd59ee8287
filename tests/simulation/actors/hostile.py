# SPDX-License-Identifier: Apache-2.0
"""Hostile peers: records in their own stores that claim what is not theirs, or that are no records at all. Hostile tenants:
Services that claim what others have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.actors.plan import NAMESPACES, SERVICES, TENANT, Plan
from tests.simulation.actors.users import service_manifest
from tests.simulation.cluster import SERVICE_PREFIX
from tests.simulation.steps import Step, step

FREE: Final = "203.0.113.80"
"""An address that nobody has: a load balancer may give it."""
MASKS: Final = {"24": "////AA==", "16": "//8AAA==", "0": "AAAAAA=="}


def claim_addresses(plan: Plan) -> Iterator[Step]:
    """An address record or a Service's record of a peer that names what another cluster has."""
    peer, victim = plan.pair()
    number, other = (plan.clusters.index(name) + 1 for name in (peer, victim))
    pod, service = f"10.{other}.0.{plan.rng.randrange(4, 8)}", f"{SERVICE_PREFIX}{other}.0.10"
    address = plan.rng.choice((pod, pod, f"172.18.{other}.1", service))
    if plan.rng.random() < 0.5:
        key = f"cilium/state/ip/v1/default/{address}"
        value: dict[str, Any] = {
            "IP": address,
            "HostIP": f"172.18.{number}.1",
            "ID": number * 65536 + 300,
            "Metadata": "",
        }
    else:
        namespace, name = plan.service()
        key = f"cilium/state/services/v1/{peer}/{namespace}/{name}"
        names = {"cluster": peer, "clusterID": number, "namespace": namespace, "name": name}
        backends = {address: {"http": {"protocol": "TCP", "port": 8080}}}
        value = {**names, "frontends": {}, "backends": backends, "labels": {}, "selector": {}, "shared": True}
    yield from _tamper(plan, peer, key, value)


def claim_networks(plan: Plan) -> Iterator[Step]:
    """A node of a peer that has another cluster's addresses: as its own, for health checks, or for its pods."""
    peer, victim = plan.pair()
    number, other = (plan.clusters.index(name) + 1 for name in (peer, victim))
    theirs = (f"10.{other}.0.{plan.rng.randrange(4, 8)}", f"172.18.{other}.1")
    value: dict[str, Any] = {"Name": "evil", "Cluster": peer, "ClusterID": number}
    value["IPAddresses"] = [{"Type": "InternalIP", "IP": plan.rng.choice((f"172.18.{number}.9", theirs[1]))}]
    if plan.rng.random() < 0.5:
        value["IPv4HealthIP"] = plan.rng.choice(theirs)
    if plan.rng.random() < 0.7:
        ip, _, length = plan.rng.choice(
            (f"10.{other}.0.0/24", f"{SERVICE_PREFIX}{other}.0.0/16", f"{SERVICE_PREFIX}{other}.0.0/24", "0.0.0.0/0")
        ).partition("/")
        value["IPv4AllocCIDR"] = {"IP": ip, "Mask": MASKS[length]}
    yield from _tamper(plan, peer, f"cilium/state/nodes/v1/{peer}/evil", value)


def _tamper(plan: Plan, peer: str, key: str, value: dict[str, Any]) -> Iterator[Step]:
    yield step("record", peer, key, json.dumps(value, separators=(",", ":")))
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))


def claim_service_address(plan: Plan) -> Iterator[Step]:
    """A tenant's Service asks for an address that somebody has: another Service, a node, a pod, the loopback; or for its own."""
    cluster = plan.cluster()
    number = plan.clusters.index(cluster) + 1
    victim = service_manifest(number, *plan.focus, {})["spec"]["clusterIP"]
    taken = (victim, victim, f"172.18.{number}.1", f"10.{number}.0.4", "127.0.0.1")
    manifest = service_manifest(number, plan.rng.choice(NAMESPACES), TENANT, {})
    manifest["spec"]["selector"] = {"app": plan.rng.choice(SERVICES)}
    if plan.rng.random() < 0.6:
        manifest["spec"]["externalIPs"] = [plan.rng.choice((*taken, FREE))]
    else:
        manifest["spec"]["type"] = "LoadBalancer"
        manifest["status"] = {"loadBalancer": {"ingress": [{"ip": plan.rng.choice((*taken, FREE, FREE))}]}}
    yield step("put", cluster, "service", manifest)
    if plan.rng.random() < 0.5:
        key = f"{manifest['metadata']['namespace']}/{TENANT}"
        plan.after(plan.rng.randrange(2, 10), step("del", cluster, "service", key))


def garbage(plan: Plan) -> Iterator[Step]:
    """What no reader can use."""
    peer = plan.cluster()
    kinds = ("services", "nodes", "ip", "identities", "endpointslices", "nonsense")
    key = f"cilium/state/{plan.rng.choice(kinds)}/v1/{plan.rng.choice((peer, 'other', 'id', 'default', ''))}/x"
    yield step("record", peer, key, plan.rng.choice(("{", "[]", "null", '{"cluster":1}', "\x00", "x" * 200)))
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))
