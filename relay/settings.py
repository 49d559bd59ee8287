# SPDX-License-Identifier: Apache-2.0
"""Everything that can be set, with the defaults of the pod the command installs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshapi import installed
from meshkit.settings import Settings as Base
from meshkit.settings import option, required
from meshmodel.names import parse_cluster_name


@dataclass(frozen=True, kw_only=True)
class RelaySettings(Base):
    """Merge the flows of a cluster's nodes, and serve them and the page."""

    cluster_name: str = required("this cluster's name: at most 32 of a-z, 0-9 and -")
    kubeconfig: str = option("", "kubeconfig file; empty: the pod's service account, else the user's kubeconfig")
    context: str = option("", "context of the kubeconfig; empty: its current one")
    namespace: str = option(installed.DEFAULT_NAMESPACE, "namespace this program runs in")
    default_global_namespace: bool = option(
        True, "whether a namespace without the annotation clustermesh.cilium.io/global takes part in the mesh"
    )
    certificates: Path = option(
        Path(installed.RELAY_DIRECTORY),
        "directory with ca.crt, tls.crt and tls.key, by which observers are asked and peers' relays too",
    )
    server_certificates: Path = option(
        Path(installed.RELAY_SERVER_DIRECTORY), "directory with ca.crt, tls.crt and tls.key of what is served"
    )
    ca_bundle_dir: Path = option(
        Path(installed.STATE_DIRECTORY) / "ca-bundle", "one <peer>.crt per peer whose relay may ask"
    )
    grants_dir: Path = option(
        Path(installed.STATE_DIRECTORY) / "users", "one flows-<peer> per peer that is granted flows of this cluster"
    )
    peer_ca_dir: Path = option(
        Path(installed.PEER_DIRECTORY), "one <peer>.etcd-client-ca.crt per peer whose relay is asked"
    )
    flow_peers_dir: Path = option(
        Path(installed.FLOW_PEER_DIRECTORY), "where the relays of peers are: HOST:PORT,... in a file named as the peer"
    )
    flow_port: int = option(installed.FLOW_PORT, "where each node's observer answers")
    agent_port: int = option(installed.AGENT_PORT, "where each node's agent answers REST")
    apiserver_port: int = option(installed.APISERVER_PORT, "where the apiserver answers REST")
    token_file: Path = option(Path(installed.AGENT_TOKEN_FILE), "token that agents and the apiserver admit us by")
    listen_address: str = option("0.0.0.0", "address of all ports but those of sockets")
    port: int = option(installed.RELAY_PORT, "port of Hubble's API, with mTLS, for programs of this cluster; 0: any")
    peers_port: int = option(installed.RELAY_PEERS_PORT, "the same for relays of peers; 0: any")
    http_port: int = option(
        installed.RELAY_HTTP_PORT,
        "port of REST and the page: health and metrics for all, the rest with a token; 0: any",
    )
    http_socket: Path = option(Path(installed.RELAY_SOCKET), "unix socket of REST and the page, for root here")
    probe_port: int = option(installed.PROBE_PORT, "port of liveness and readiness; 0: any")
    log_level: str = option("info", "how much is logged", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        parse_cluster_name(self.cluster_name)
