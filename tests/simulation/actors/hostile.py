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
from tests.simulation.steps import FLOODS, Step, step

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


def _tamper(plan: Plan, peer: str, key: str, value: object) -> Iterator[Step]:
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


def flood(plan: Plan) -> Iterator[Step]:
    """Many records that nobody can use, and all of them gone again: at their largest more than a peer may have."""
    peer, kind = plan.cluster(), plan.rng.choice(sorted(FLOODS))
    yield step("flood", peer, kind, *plan.rng.choice((("20", "2"), ("200", "2"), ("200", "2000"))))
    plan.after(plan.rng.randrange(2, 10), step("ebb", peer, kind))


def claim_identity(plan: Plan) -> Iterator[Step]:
    """An identity of a peer with a number that is not its own, reserved or nobody's, or with another cluster's labels."""
    peer, victim = plan.pair()
    number, other = (plan.clusters.index(name) + 1 for name in (peer, victim))
    identity = plan.rng.choice(
        (1, 2, 100, other * 65536 + 256, other * 65536 + 300, number * 65536 + 300, 1 << 24, 1 << 40)
    )
    labels = {"io.cilium.k8s.policy.cluster": plan.rng.choice((peer, victim)), "app": plan.focus[1]}
    labels["io.kubernetes.pod.namespace"] = plan.focus[0]
    text = "".join(f"k8s:{name}={value};" for name, value in sorted(labels.items()))
    if plan.rng.random() < 0.2:
        text = plan.rng.choice(("reserved:host=;", "reserved:health=;", ";;", "k8s:=", "x" * 5000))
    key = f"cilium/state/identities/v1/id/{identity}"
    yield step("record", peer, key, text)
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))


def misshape(plan: Plan) -> Iterator[Step]:
    """A record that is nearly right: another cluster's name or number, ports and addresses that are none, a key of another."""
    peer, victim = plan.pair()
    number = plan.clusters.index(peer) + 1
    namespace, name = plan.service()
    names = {"cluster": peer, "clusterID": number, "namespace": namespace, "name": name}
    names |= plan.rng.choice(({"cluster": victim}, {"clusterID": 0}, {"clusterID": 255}, {"name": "other"}, {}))
    port = plan.rng.choice(
        ({"protocol": "TCP", "port": 0}, {"protocol": "X", "port": 80}, {"protocol": "TCP", "port": 70000})
    )
    backend = plan.rng.choice((f"10.{number}.0.99", "10.1.1.300", "fe80::1%eth0", "127.0.0.1", ""))
    service = {
        **names,
        "frontends": {},
        "backends": {backend: {"http": port}},
        "labels": {},
        "selector": {},
        "shared": True,
    }
    export = {**names, "exportCreationTimestamp": plan.rng.choice(("yesterday", "2027-01-15T08:00:00Z"))}
    address = {
        "IP": backend,
        "HostIP": plan.rng.choice(("", "not-an-ip", f"172.18.{number}.1")),
        "ID": number * 65536 + 300,
    }
    kind, value = plan.rng.choice(
        (("services", service), ("serviceexports", export), ("ip", address), ("endpointslices", names))
    )
    where = f"default/{backend or 'x'}" if kind == "ip" else f"{peer}/{namespace}/{name}"
    yield from _tamper(plan, peer, f"cilium/state/{kind}/v1/{where}", value)


def garbage(plan: Plan) -> Iterator[Step]:
    """What no reader can use."""
    peer = plan.cluster()
    kinds = ("services", "nodes", "ip", "identities", "endpointslices", "nonsense")
    key = f"cilium/state/{plan.rng.choice(kinds)}/v1/{plan.rng.choice((peer, 'other', 'id', 'default', ''))}/x"
    yield step("record", peer, key, plan.rng.choice(("{", "[]", "null", '{"cluster":1}', "\x00", "x" * 200)))
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))


def misdescribe(plan: Plan) -> Iterator[Step]:
    """A peer says of itself that it is another, that it publishes what it does not, or nothing that can be read; or what it has
    written in full is said to be written no more.
    """
    peer, victim = plan.pair()
    number, other = (plan.clusters.index(name) + 1 for name in (peer, victim))
    capabilities = {"syncedCanaries": True, "maxConnectedClusters": 255}
    config = plan.rng.choice(
        (
            {"id": other, "capabilities": capabilities},
            {"id": 0, "capabilities": capabilities},
            {"id": 300, "capabilities": capabilities},
            {"id": number, "capabilities": {**capabilities, "maxConnectedClusters": 511}},
            {"id": number, "capabilities": {**capabilities, "endpointSlicesExportMode": "endpointslices-only"}},
            {"id": number, "capabilities": {}},
            ["id", number],
            {},
        )
    )
    if plan.rng.random() < 0.7:
        yield from _tamper(plan, peer, f"cilium/cluster-config/{peer}", config)
    else:
        kind = plan.rng.choice(("nodes", "identities", "ip", "services"))
        yield step("norecord", peer, f"cilium/synced/{peer}/cilium/state/{kind}/v1")
        yield step("store", peer, "cut")
