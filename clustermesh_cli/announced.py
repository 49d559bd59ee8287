# SPDX-License-Identifier: Apache-2.0
"""The pod networks a cluster announces to its peers."""

from __future__ import annotations

from clustermesh_cli.commands.kv import ReadableStore
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.plan.facts import ClusterFacts
from kube.client import KubeClient
from meshmodel import keys, node
from meshmodel.errors import ModelError


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
