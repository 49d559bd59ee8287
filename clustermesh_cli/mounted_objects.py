# SPDX-License-Identifier: Apache-2.0
"""The Secrets and ConfigMaps that the programs mount: made where they are missing; what they hold is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

import kube.resource as k
from certs.authority_secret import KeptAuthority, read_authority
from certs.errors import CertificateError
from certs.profile import Profile
from clustermesh_cli.credentials import IssuedCertificates, ensure_authority, ensure_certificates
from clustermesh_cli.plan.authority_choice import check_authority
from clustermesh_cli.plan.peering import agent_files, find_real_files, keep_lists, known_peers
from kube.client import KubeClient
from meshapi.installed import (
    CA_BUNDLE,
    CA_SECRET,
    FLOW_PEERS,
    MIRROR_SECRET,
    PART_OF,
    PEERS_SECRET,
    REMOTE_USERS,
)


def ensure_mounted(
    client: KubeClient, namespace: str, cluster: str, shapes: Mapping[str, Profile], wall_s: float
) -> tuple[KeptAuthority, IssuedCertificates]:
    """The cluster has an authority, certificates of these shapes by Secret, and the objects that hold peers.

    Raises: CertificateError for an authority that cannot be read, KubeError.
    """
    kept = ensure_authority(client, namespace, cluster, wall_s)
    issued = ensure_certificates(client, namespace, kept, shapes, wall_s)
    _ensure_peering(client, namespace, cluster, kept)
    return kept, issued


def find_trusting(client: KubeClient, namespace: str, cluster: str, *, may_be_new: bool) -> frozenset[str]:
    """The peers that trust this cluster's authority. Raises: CommandRefusedError where it may not be replaced."""
    secrets = [client.get(k.SECRETS, name, namespace) for name in (PEERS_SECRET, MIRROR_SECRET)]
    bundle, users = (client.get(k.CONFIG_MAPS, name, namespace) for name in (CA_BUNDLE, REMOTE_USERS))
    peers = known_peers(secrets, bundle, users) - {cluster}
    secret, flaw = client.get(k.SECRETS, CA_SECRET, namespace), ""
    if secret is not None:
        try:
            read_authority(secret, CA_SECRET)
        except CertificateError as exc:
            flaw = str(exc)
    check_authority(is_kept=secret is not None, may_be_new=may_be_new, peers=peers, flaw=flaw)
    return peers


def _ensure_peering(client: KubeClient, namespace: str, cluster: str, kept: KeptAuthority) -> None:
    """The objects that hold peers exist; what they already hold is kept."""
    for name in (MIRROR_SECRET, PEERS_SECRET):
        if client.get(k.SECRETS, name, namespace) is None:
            empty = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": _metadata(name, namespace)}
            client.create(k.SECRETS, {**empty, "data": {}})
    own = {f"{cluster}.crt": kept.trust_pem.decode()}
    client.apply(k.CONFIG_MAPS, config_map(CA_BUNDLE, namespace, own))
    if client.get(k.CONFIG_MAPS, FLOW_PEERS, namespace) is None:
        client.create(k.CONFIG_MAPS, config_map(FLOW_PEERS, namespace, {}))
    if client.get(k.CONFIG_MAPS, REMOTE_USERS, namespace) is None:
        client.create(k.CONFIG_MAPS, config_map(REMOTE_USERS, namespace, {"users.yaml": yaml.safe_dump({"users": []})}))


def ensure_peer_files(client: KubeClient, namespace: str, *, is_mirrored: bool) -> None:
    """The mirror has every peer's real files, and agents are told to read the mirror, or the peers themselves."""
    mirror, agents = (_data(client, name, namespace) for name in (MIRROR_SECRET, PEERS_SECRET))
    real = find_real_files(mirror, agents)
    wanted = keep_lists(agents, agent_files(real, is_mirrored=is_mirrored, namespace=namespace))
    for name, before, after in ((MIRROR_SECRET, mirror, real), (PEERS_SECRET, agents, wanted)):
        change = {key: value for key, value in after.items() if before.get(key) != value}
        if change:
            client.patch_merge(k.SECRETS, name, {"data": change}, namespace)


def _data(client: KubeClient, name: str, namespace: str) -> dict[str, str]:
    return dict((client.get(k.SECRETS, name, namespace) or {}).get("data") or {})


def config_map(name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    """One of ours."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name, namespace), "data": data}


def _metadata(name: str, namespace: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": dict(PART_OF)}
