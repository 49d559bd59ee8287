# SPDX-License-Identifier: Apache-2.0
"""What the agent must know of its cluster and node before it starts: settings first, then Kubernetes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.settings import AgentSettings
from kube.client import KubeClient, in_thread
from kube.resource import CONFIG_MAPS, NODES, KubeObject
from kubeintent import node as node_object
from kubeintent.read import UnreadableError
from meshapi import installed
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import PermanentError, TransientError
from meshmodel.names import ClusterId, ClusterName, check_cluster_id, check_maximum, parse_cluster_name

log = logging.getLogger(__name__)

CONFIG_MAP_NAMES: Final = (installed.CONFIG_MAP, installed.CILIUM_CONFIG_MAP)
BACKOFF_S: Final = (1.0, 30.0)


class MissingFactError(PermanentError):
    """Neither the settings nor the cluster say it."""


@dataclass(frozen=True, slots=True)
class OwnNode:
    """A node of this cluster as Kubernetes knows it: enough to refuse peers that claim its networks."""

    name: str
    ip: str
    pod_cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Who we are."""

    cluster: ClusterName
    cluster_id: ClusterId
    maximum: int
    node: str
    node_ip: str
    pod_cidrs: tuple[str, ...] = ()
    default_local_cluster: bool = True
    own_nodes: tuple[OwnNode, ...] = ()


async def learn(settings: AgentSettings, client: KubeClient | None, clock: Clock) -> Facts:
    """The facts; waits for an API server that is away or forbids it. Raises: PermanentError for a missing fact."""
    backoff = Backoff(*BACKOFF_S)
    while True:
        try:
            return await in_thread(_learn, settings, client)
        except (TransientError, OSError) as exc:
            delay_s = backoff.next()
            log.warning("cluster not reachable, retrying", extra={"delay_s": round(delay_s, 2), "error": str(exc)})
            await clock.sleep(delay_s)


def _learn(settings: AgentSettings, client: KubeClient | None) -> Facts:
    config = {} if client is None or _is_complete(settings) else read_config(client, settings.config_namespace)
    nodes = client.list(NODES) if client is not None else []
    own_nodes = tuple(row for n in nodes if (row := _read_if_readable(n)) is not None)
    node = next((n for n in own_nodes if n.name == settings.node_name), OwnNode(settings.node_name, "", ()))
    name = settings.cluster_name or config.get(installed.CLUSTER_NAME_KEY, "")
    number = settings.cluster_id or int(config.get(installed.CLUSTER_ID_KEY) or 0)
    if not name or not number:
        raise MissingFactError("cluster name or id is not set: give --cluster-name and --cluster-id, or run enable")
    maximum = check_maximum(settings.max_connected_clusters or int(config.get(installed.MAXIMUM_KEY) or 255))
    node_ip = settings.node_ip or node.ip
    if not node_ip:
        raise MissingFactError("address of this node is not known: give --node-ip, or --node-name of a Node object")
    scope = settings.policy_default_local_cluster or config.get(installed.SCOPE_KEY, "") or "true"
    return Facts(
        cluster=parse_cluster_name(name),
        cluster_id=check_cluster_id(number, maximum),
        maximum=maximum,
        node=settings.node_name or node_ip,
        node_ip=node_ip,
        pod_cidrs=node.pod_cidrs,
        default_local_cluster=scope.lower() != "false",
        own_nodes=own_nodes,
    )


def read_node(found: KubeObject) -> OwnNode:
    """What a Node object says. Raises: UnreadableError."""
    row = node_object.read_node(found).row
    assert row is not None  # of a node there always is one
    return OwnNode(row.name, row.internal_ip(version=4), row.pod_cidrs)


def _read_if_readable(found: KubeObject) -> OwnNode | None:
    try:
        return read_node(found)
    except UnreadableError as exc:
        log.warning("a Node object is left out", extra={"error": str(exc)})
        return None


def read_config(client: KubeClient, namespace: str) -> Mapping[str, str]:
    """The data of the first of our ConfigMaps that exists; empty if none does."""
    for name in CONFIG_MAP_NAMES:
        found = client.get(CONFIG_MAPS, name, namespace)
        if found is not None:
            data: Mapping[str, str] = found.get("data") or {}
            return data
    return {}


def _is_complete(settings: AgentSettings) -> bool:
    return bool(
        settings.cluster_name
        and settings.cluster_id
        and settings.max_connected_clusters
        and settings.policy_default_local_cluster
    )
