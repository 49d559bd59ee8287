# SPDX-License-Identifier: Apache-2.0
"""`clustermesh disable`: take the programs and their state out of a cluster. CRDs and policies stay: they are the user's."""

from __future__ import annotations

from typing import Any

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.manifests import load_workloads
from kube.client import KubeClient
from kube.resource import from_manifest
from meshapi.installed import CA_BUNDLE, CA_SECRET, CERTIFICATE_SECRETS, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS

MARKS = (
    "CLUSTER_NAME",
    "CLUSTER_ID",
    "MAX_CONNECTED_CLUSTERS",
    "POLICY_DEFAULT_LOCAL_CLUSTER",
    "APISERVER_IMAGE",
    "AGENT_IMAGE",
    "SERVICE_TYPE",
    "MIRROR",
)


def workloads(namespace: str) -> list[dict[str, Any]]:
    """What `enable` applied, by kind and name; the rest of each object does not matter for its removal."""
    return load_workloads({**dict.fromkeys(MARKS, "none"), "NAMESPACE": namespace})


def disable(client: KubeClient, namespace: str, *, keep_ca: bool, console: Console) -> None:
    """Delete what `enable` made, last first; what is already gone is no error."""
    config = read_config(client, namespace)
    removed = 0
    for obj in reversed(workloads(namespace)):
        meta = obj["metadata"]
        removed += client.delete(from_manifest(obj), meta["name"], meta.get("namespace"))
    for name in (*CERTIFICATE_SECRETS, PEERS_SECRET, MIRROR_SECRET, *(() if keep_ca else (CA_SECRET,))):
        removed += client.delete(k.SECRETS, name, namespace)
    for name in (CA_BUNDLE, REMOTE_USERS):
        removed += client.delete(k.CONFIG_MAPS, name, namespace)
    console.ok(f"Removed {removed} objects of the mesh from cluster {config.get('cluster-name', '(unnamed)')}")
    console.info("Peers keep what they know until they disconnect: clustermesh disconnect, in each of them")
    console.info("Programs and maps on the nodes stay in force until each node runs: clustermesh-agent uninstall")
