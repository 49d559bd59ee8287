# SPDX-License-Identifier: Apache-2.0
"""`clustermesh disable`: agents remove everything from their nodes, then the programs and their state go.

CRDs and policies stay: they are the user's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.manifests import is_foreign, load_workloads
from clustermesh_cli.plan.detachment import abandoned_nodes, detaching_patch, unconfirmed_nodes
from kube.client import KubeClient
from kube.errors import KubeError, NotFound, ServerFailed, Unreachable
from kube.resource import from_manifest
from kubeintent.cilium import IDENTITY_OWNER, IDENTITY_OWNER_LABEL
from meshapi.installed import (
    AGENT,
    AGENT_SELECTOR,
    APISERVER_SELECTOR,
    CA_BUNDLE,
    CA_SECRET,
    CERTIFICATE_SECRETS,
    CLUSTER_NAME_KEY,
    CONFIG_MAP,
    DRAINED,
    FLOW_PEERS,
    MIRROR_SECRET,
    PEERS_SECRET,
    REMOTE_USERS,
)

MARKS: Final = (
    "CLUSTER_NAME",
    "CLUSTER_ID",
    "MAX_CONNECTED_CLUSTERS",
    "POLICY_DEFAULT_LOCAL_CLUSTER",
    "APISERVER_IMAGE",
    "AGENT_IMAGE",
    "RELAY_IMAGE",
    "SERVICE_TYPE",
    "MIRROR",
    "CERTIFICATE_LIFETIME_S",
)
POLL_S: Final = 0.5
GONE_WITHIN_S: Final = 30.0
INTERRUPTED: Final = (
    "disable did not end, the cluster may be half disabled: run clustermesh disable again with the same flags to finish, or "
    "clustermesh enable to stay in the mesh"
)


@dataclass(frozen=True, slots=True)
class DisableOptions:
    """What the user asked for. `force` goes on although nodes have not confirmed; `wait_s` is how long they may take."""

    keep_ca: bool = False
    keep_identities: bool = False
    force: bool = False
    wait_s: float = 120.0


def workloads(namespace: str) -> list[dict[str, Any]]:
    """What `enable` or those it prints for applied, by kind and name; the rest of each object does not matter for its removal."""
    return load_workloads(
        {**dict.fromkeys(MARKS, "none"), "NAMESPACE": namespace}, with_relay=True, with_certificates=True
    )


def disable(client: KubeClient, namespace: str, options: DisableOptions, console: Console) -> None:
    """Nothing of ours is left on any node, then in the cluster; what is already gone is no error.

    Interrupted, or left by the API server in the middle of it, it says that the cluster is half disabled and what ends that.
    Raises: CommandError (timeout; refused where no DaemonSet is left that could), having deleted nothing, if a node does not
    confirm and `force` is not set; KubeError.
    """
    config = read_config(client, namespace)
    try:
        _disable(client, namespace, options, console, config)
    except (KeyboardInterrupt, SystemExit, KubeError):
        console.warn(INTERRUPTED)
        raise


def _disable(
    client: KubeClient, namespace: str, options: DisableOptions, console: Console, config: Mapping[str, str]
) -> None:
    left = _detach_nodes(client, namespace, options, console)
    console.step("Removing programs, roles, Secrets and ConfigMaps of the mesh...")
    removed = _delete_leases(client, namespace)  # first: they are how an agent is known that did not detach
    for obj in reversed(workloads(namespace)):
        meta = obj["metadata"]
        if is_foreign(client, obj):
            continue
        removed += client.delete(from_manifest(obj), meta["name"], meta.get("namespace"))
    for name in (*CERTIFICATE_SECRETS, PEERS_SECRET, MIRROR_SECRET, *(() if options.keep_ca else (CA_SECRET,))):
        removed += client.delete(k.SECRETS, name, namespace)
    for name in (CA_BUNDLE, REMOTE_USERS, FLOW_PEERS, DRAINED):
        removed += client.delete(k.CONFIG_MAPS, name, namespace)
    removed += _delete_leases(client, namespace)
    if not options.keep_identities:
        removed += _delete_identities(client, namespace)
        # last: as long as something is numbered by this id, an enable that comes instead must find it
        removed += client.delete(k.CONFIG_MAPS, CONFIG_MAP, namespace)
    console.ok(f"Removed {removed} objects of the mesh from cluster {config.get(CLUSTER_NAME_KEY, '(unnamed)')}")
    console.info("Peers keep what they know until they disconnect: clustermesh disconnect, in each of them")
    for node in left:
        console.warn(
            f"{node}: programs, maps and the overlay device stay in force as they are, and are no longer updated; "
            "reboot the node, or run there: clustermesh-agent uninstall"
        )


def _detach_nodes(client: KubeClient, namespace: str, options: DisableOptions, console: Console) -> list[str]:
    """Agents remove what is in their nodes' kernels; returns the nodes that did not confirm it, which only `force` permits."""
    daemon = client.get(k.DAEMON_SETS, AGENT, namespace)
    if daemon is None:
        left = abandoned_nodes(client.list(k.NODES), client.list(k.LEASES, namespace, AGENT_SELECTOR))
        if left and not options.force:
            raise CommandError(
                f"the DaemonSet {AGENT} is gone, and its agents have not taken programs and maps from {', '.join(left)}; nothing "
                "was deleted. Run clustermesh enable, then disable again, or go on without those nodes: disable --force",
                ExitCode.REFUSED,
            )
        return left
    console.step("Detaching every node: connections to other clusters end, Services are the business of the CNI again")
    client.patch_merge(k.DAEMON_SETS, AGENT, detaching_patch(daemon), namespace)

    def missing() -> list[str]:
        return unconfirmed_nodes(client.list(k.NODES), client.list(k.PODS, namespace, AGENT_SELECTOR))

    left = _poll(missing, options.wait_s)
    if not left:
        console.ok("Every node confirmed that nothing of the mesh is left on it")
    elif not options.force:
        raise CommandError(
            f"no confirmation within {options.wait_s:g} s from {', '.join(left)}; nothing was deleted. Run disable again, "
            "remove Node objects of machines that are gone, or go on without those nodes: disable --force",
            ExitCode.TIMEOUT,
        )
    return left


def _delete_leases(client: KubeClient, namespace: str) -> int:
    """The Leases of agents are gone."""
    found = client.list(k.LEASES, namespace, AGENT_SELECTOR)
    return sum(client.delete(k.LEASES, lease["metadata"]["name"], namespace) for lease in found)


def _delete_identities(client: KubeClient, namespace: str) -> int:
    """The identities that our apiserver allocated are gone, once it is; those of Cilium are Cilium's."""
    _poll(lambda: client.list(k.PODS, namespace, APISERVER_SELECTOR), GONE_WITHIN_S)
    try:
        found = client.list(k.CILIUM_IDENTITIES, None, f"{IDENTITY_OWNER_LABEL}={IDENTITY_OWNER}")
    except NotFound:
        return 0
    return sum(client.delete(k.CILIUM_IDENTITIES, item["metadata"]["name"]) for item in found)


def _poll(look: Callable[[], list[Any]], wait_s: float) -> list[Any]:
    """What was seen last: empty as soon as it is, else after the time is over. An API server that is away is waited for as long.

    Raises: KubeError.
    """
    deadline = time.monotonic() + wait_s
    while True:
        is_last = time.monotonic() >= deadline
        try:
            seen = look()
        except (Unreachable, ServerFailed):
            if is_last:
                raise
        else:
            if not seen or is_last:
                return seen
        threading.Event().wait(POLL_S)
