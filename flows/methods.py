# SPDX-License-Identifier: Apache-2.0
"""Hubble's remote procedures by name, and what else both sides of the API agree on. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

OBSERVER: Final = "observer.Observer"
PEER: Final = "peer.Peer"
HEALTH: Final = "grpc.health.v1.Health"
HEALTH_SERVICE: Final = "hubble.server.Observer"
"""The name under which Hubble's clients ask for an observer's health."""
VERSION_HEADER: Final = "hubble-server-version"
RELAY_VERSION_HEADER: Final = "hubble-relay-version"
CLUSTERS_HEADER: Final = "clustermesh-clusters"
"""Ours, of a request to a relay: the clusters whose flows are asked for, separated by commas, or `all`."""


class PeerFacts(NamedTuple):
    """Where an observer answers, and the name its certificate is for; "": it has none."""

    address: str
    server_name: str


def tls_server_name(cluster: str, node: str) -> str:
    """What the certificate of a node's observer is for."""
    return f"{node.replace('.', '-')}.{cluster or 'default'}.hubble-grpc.cilium.io"
