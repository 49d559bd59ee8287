# SPDX-License-Identifier: Apache-2.0
"""Hostile peers: records in their own stores that claim what is not theirs, or that are no records at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.simulation.actors.plan import Plan
from tests.simulation.cluster import SERVICE_PREFIX
from tests.simulation.steps import Step, step


def claim_addresses(plan: Plan) -> Iterator[Step]:
    """An address record, a node or a service of a peer that names what another cluster has."""
    peer, victim = plan.pair()
    number, other = (plan.clusters.index(name) + 1 for name in (peer, victim))
    node_ip = f"172.18.{number}.1"
    address = plan.rng.choice((f"10.{other}.0.4", f"172.18.{other}.1", f"{SERVICE_PREFIX}{other}.0.10"))
    match plan.rng.randrange(3):
        case 0:
            key = f"cilium/state/ip/v1/default/{address}"
            value: dict[str, Any] = {"IP": address, "HostIP": node_ip, "ID": number * 65536 + 300, "Metadata": ""}
        case 1:
            key = f"cilium/state/nodes/v1/{peer}/evil"
            addresses = [{"Type": "InternalIP", "IP": plan.rng.choice((node_ip, f"172.18.{other}.1"))}]
            cidr = plan.rng.choice((f"10.{other}.0.0/24", f"{SERVICE_PREFIX}{other}.0.0/16", "0.0.0.0/0"))
            names = {"Name": "evil", "Cluster": peer, "ClusterID": number}
            value = {**names, "IPAddresses": addresses, "IPv4AllocCIDR": {"IP": cidr.split("/")[0], "Mask": "////AA=="}}
        case _:
            key = f"cilium/state/services/v1/{peer}/default/web"
            names = {"cluster": peer, "clusterID": number, "namespace": "default", "name": "web"}
            backends = {address: {"http": {"protocol": "TCP", "port": 8080}}}
            value = {**names, "frontends": {}, "backends": backends, "labels": {}, "selector": {}, "shared": True}
    yield step("record", peer, key, json.dumps(value, separators=(",", ":")))
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))


def garbage(plan: Plan) -> Iterator[Step]:
    """What no reader can use."""
    peer = plan.cluster()
    kinds = ("services", "nodes", "ip", "identities", "endpointslices", "nonsense")
    key = f"cilium/state/{plan.rng.choice(kinds)}/v1/{plan.rng.choice((peer, 'other', 'id', 'default', ''))}/x"
    yield step("record", peer, key, plan.rng.choice(("{", "[]", "null", '{"cluster":1}', "\x00", "x" * 200)))
    plan.after(plan.rng.randrange(3, 10), step("norecord", peer, key))
