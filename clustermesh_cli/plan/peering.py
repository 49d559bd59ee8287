# SPDX-License-Identifier: Apache-2.0
"""The three objects that hold a cluster's peers, and what a new or a leaving peer changes in them. Pure.

Secret cilium-clustermesh: one etcd client file and one CA certificate per peer, for the agents.
ConfigMap clustermesh-ca-bundle: the CAs our facade accepts client certificates from.
ConfigMap clustermesh-remote-users: the users our facade lets in, `remote-<peer>` each.
No private key is in any of them: every cluster signs its own client certificate.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import yaml

from clustermesh_cli.plan.connect import peer_config
from clustermesh_cli.plan.facts import ClusterFacts, KnownPeer

PEERS_ANNOTATION = "mesh.clustermesh.io/peers"
USERS_KEY = "users.yaml"


def learn_peer(known: Mapping[str, KnownPeer], target: ClusterFacts) -> dict[str, Any]:
    """Merge patch of the peers' Secret by which agents start to read `target`."""
    record = KnownPeer(target.id, target.ca_fingerprint, target.pod_cidrs)
    return {
        "metadata": {"annotations": {PEERS_ANNOTATION: _dump_peers({**known, target.name: record})}},
        "data": {
            str(target.name): _encode(peer_config(target).encode()),
            f"{target.name}.etcd-client-ca.crt": _encode(target.ca_pem),
        },
    }


def forget_peer(known: Mapping[str, KnownPeer], peer: str) -> dict[str, Any]:
    """Merge patch of the peers' Secret by which agents drain and forget `peer`."""
    rest = {name: record for name, record in known.items() if name != peer}
    return {
        "metadata": {"annotations": {PEERS_ANNOTATION: _dump_peers(rest)}},
        "data": {peer: None, f"{peer}.etcd-client-ca.crt": None},
    }


def admit_users(users_yaml: str, reader: str) -> str:
    """users.yaml in which `reader` may read us; the same text when it already may."""
    wanted = {"name": f"remote-{reader}", "role": "remote"}
    users = _users(users_yaml)
    return users_yaml if wanted in users else _dump_users([*users, wanted])


def expel_users(users_yaml: str, reader: str) -> str:
    """users.yaml without `reader`: the facade then cuts its open streams."""
    return _dump_users([u for u in _users(users_yaml) if u.get("name") != f"remote-{reader}"])


def _users(text: str) -> list[dict[str, str]]:
    document = yaml.safe_load(text) or {}
    return list(document.get("users") or [])


def _dump_users(users: list[dict[str, str]]) -> str:
    return yaml.safe_dump({"users": sorted(users, key=lambda u: u["name"])}, sort_keys=False)


def _dump_peers(peers: Mapping[str, KnownPeer]) -> str:
    plain = {n: {"id": p.id, "ca": p.ca_fingerprint, "podCIDRs": list(p.pod_cidrs)} for n, p in sorted(peers.items())}
    return json.dumps(plain, separators=(",", ":"), sort_keys=True)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
