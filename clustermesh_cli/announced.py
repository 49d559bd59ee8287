# SPDX-License-Identifier: Apache-2.0
"""The pod networks a cluster announces to its peers, and those its own objects say that all its pods are in."""

from __future__ import annotations

from typing import Final

from clustermesh_cli.commands.kv import ReadableStore
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.plan.facts import ClusterFacts
from clustermesh_cli.plan.pod_ranges import calico_ranges, cilium_ranges, flag_ranges, kubeadm_ranges
from kube.client import KubeClient
from kube.errors import Forbidden, NotFound
from kube.resource import CALICO_IP_POOLS, CONFIG_MAPS, DEPLOYMENTS, KubeObject, Resource
from meshapi.installed import APISERVER, CILIUM_CONFIG_MAP
from meshmodel import keys, node
from meshmodel.errors import ModelError

KUBEADM_CONFIG_MAP: Final = "kubeadm-config"
KUBEADM_NAMESPACE: Final = "kube-system"


def announced_networks(client: KubeClient, namespace: str, cluster: ClusterFacts) -> tuple[str, ...]:
    """The pod networks in the node records of the cluster, as its peers read them.

    Raises: CommandError when its apiserver does not answer, or a record cannot be read.
    """
    prefix = keys.nodes_prefix(cluster.name).decode()
    found: set[str] = set()
    for entry in ReadableStore(client, namespace).entries(prefix):
        try:
            suffix = entry.key.removeprefix(prefix)
            found |= set(node.decode(suffix, entry.value, cluster=cluster.name, cluster_id=cluster.id).pod_cidrs)
        except ModelError as exc:
            raise CommandError(f"{cluster.name}: {entry.key}: {exc}") from exc
    return tuple(sorted(found))


def pod_ranges(client: KubeClient, namespace: str) -> tuple[str, ...]:
    """What the cluster's objects say all its pods are in; what the user may not read says nothing."""
    found = (
        *flag_ranges(_get(client, DEPLOYMENTS, APISERVER, namespace)),
        *cilium_ranges(_get(client, CONFIG_MAPS, CILIUM_CONFIG_MAP, namespace)),
        *kubeadm_ranges(_get(client, CONFIG_MAPS, KUBEADM_CONFIG_MAP, KUBEADM_NAMESPACE)),
        *calico_ranges(_list(client, CALICO_IP_POOLS)),
    )
    return tuple(dict.fromkeys(found))


def _get(client: KubeClient, resource: Resource, name: str, namespace: str) -> KubeObject | None:
    try:
        return client.get(resource, name, namespace)
    except Forbidden:
        return None


def _list(client: KubeClient, resource: Resource) -> list[KubeObject]:
    try:
        return client.list(resource)
    except (NotFound, Forbidden):
        return []
