# SPDX-License-Identifier: Apache-2.0
"""What one cluster says about itself: everything `connect` and `status` decide from, read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import kube.resource as k
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.plan.authority_choice import RESTORE, unusable_authority
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.peering import read_peers
from kube.client import KubeClient
from kubeintent.node import read_node
from kubeintent.read import UnreadableError
from kubeintent.rows import NodeIntent
from meshapi.installed import (
    CA_SECRET,
    CILIUM_CONFIG_MAP,
    CLUSTER_ID_KEY,
    CLUSTER_NAME_KEY,
    CONFIG_MAP,
    MAXIMUM_KEY,
    MIRROR_KEY,
    PEERS_SECRET,
    RELAY_PEERS_SERVICE,
    STORE_SERVICE,
)
from meshmodel.names import check_cluster_id, parse_cluster_name

_DEFAULTS: Final = {MAXIMUM_KEY: "255"}


def read_config(client: KubeClient, namespace: str) -> Mapping[str, str]:
    """Data of our ConfigMap, else of Cilium's, else nothing."""
    for name in (CONFIG_MAP, CILIUM_CONFIG_MAP):
        found = client.get(k.CONFIG_MAPS, name, namespace)
        if found is not None:
            data: Mapping[str, str] = found.get("data") or {}
            return data
    return {}


def read_facts(client: KubeClient, namespace: str, context: str) -> ClusterFacts:
    """Read one cluster. Raises CommandError when the mesh is not enabled there."""
    config = read_config(client, namespace)
    ca, peers = (client.get(k.SECRETS, name, namespace) for name in (CA_SECRET, PEERS_SECRET))
    if CLUSTER_NAME_KEY not in config or (ca is None and peers is None):
        raise CommandError(f"the mesh is not enabled in {context}: run `clustermesh enable --context {context}` first")
    ca_pem = _trust(ca, context)
    maximum, number = (_number(config, key, context) for key in (MAXIMUM_KEY, CLUSTER_ID_KEY))
    return ClusterFacts(
        context=context,
        name=parse_cluster_name(config[CLUSTER_NAME_KEY]),
        id=check_cluster_id(number, maximum),
        maximum=maximum,
        ca_pem=ca_pem,
        access=find_access(client.get(k.SERVICES, STORE_SERVICE, namespace), client.list(k.NODES)),
        pod_cidrs=tuple(sorted({c for n in read_nodes(client.list(k.NODES)) for c in n.pod_cidrs})),
        peers=read_peers(peers),
        is_mirrored=is_mirrored(config),
        flows=find_access(client.get(k.SERVICES, RELAY_PEERS_SERVICE, namespace), client.list(k.NODES)),
    )


def _number(config: Mapping[str, str], key: str, context: str) -> int:
    text = config.get(key, _DEFAULTS.get(key, ""))
    if not (text.isascii() and text.isdigit()):
        raise CommandError(
            f"{context}: ConfigMap {CONFIG_MAP}: {key} is {text!r} and no number: clustermesh enable --context {context} "
            "puts back what the programs of that cluster run with"
        )
    return int(text)


def read_cluster_trust(client: KubeClient, namespace: str, context: str) -> bytes:
    """What others must trust to believe the cluster, as PEM. Raises CommandError where its authority is lost or no good."""
    return _trust(client.get(k.SECRETS, CA_SECRET, namespace), context)


def _trust(secret: Mapping[str, Any] | None, context: str) -> bytes:
    from certs.authority_secret import read_trust
    from certs.errors import CertificateError  # who only looks for addresses does not load what reads certificates

    if secret is None:
        raise CommandError(f"{context}: Secret {CA_SECRET} is lost: {RESTORE}")
    try:
        return read_trust(secret, CA_SECRET)
    except CertificateError as exc:
        raise CommandError(f"{context}: {unusable_authority(str(exc))}") from exc


def is_mirrored(config: Mapping[str, str]) -> bool:
    """Whether this cluster's apiserver copies its peers' records for its agents; said by `enable`."""
    return config.get(MIRROR_KEY, "false").lower() == "true"


def find_access(service: Mapping[str, Any] | None, nodes: list[dict[str, Any]]) -> StoreAccess | None:
    """Addresses of the apiserver's Service: every ready node for NodePort, every ingress for LoadBalancer.

    Returns None while there is none (no Service, or a load balancer still being assigned).
    """
    if service is None:
        return None
    spec = service["spec"]
    port = spec["ports"][0]
    match spec.get("type", "ClusterIP"):
        case "NodePort":
            addresses, number = (
                tuple(ip for n in read_nodes(nodes) if n.is_ready and (ip := n.internal_ip())),
                port.get("nodePort", 0),
            )
        case "LoadBalancer":
            ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
            addresses, number = tuple(i.get("ip") or i.get("hostname", "") for i in ingress), port["port"]
        case _:
            addresses, number = (
                (spec["clusterIP"],) if spec.get("clusterIP") not in (None, "None") else (),
                port["port"],
            )
    return StoreAccess(spec.get("type", "ClusterIP"), addresses, number) if addresses and number else None


def read_nodes(objects: Iterable[Mapping[str, Any]]) -> tuple[NodeIntent, ...]:
    """The nodes that can be read."""
    found = []
    for item in objects:
        with suppress(UnreadableError):
            row = read_node(dict(item)).row
            found += [row] if row is not None else []
    return tuple(found)
