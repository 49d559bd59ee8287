# SPDX-License-Identifier: Apache-2.0
"""Everything that can be set, with the defaults of the pod the command installs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from certs.profile import DAY_S, DEFAULT_DAYS, SHORTEST_LIFETIME_S
from kvstore.lease import KEY_TTL_S
from kvstore.process import DEFAULT_QUOTA_BYTES
from meshapi import installed
from meshkit.settings import Settings as Base
from meshkit.settings import option, required
from meshmodel.address import canonical_prefix
from meshmodel.cluster_config import VXLAN_PORT, ExportMode
from meshmodel.names import check_cluster_id, parse_cluster_name

BASE = Path(installed.STATE_DIRECTORY)


class SourceChoice(StrEnum):
    """Where identities, addresses and nodes come from."""

    AUTO = "auto"
    CILIUM = "cilium"
    PODS = "pods"


class CiliumSlices(StrEnum):
    """Whether Cilium tells its endpoints in slices."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class ApiserverSettings(Base):
    """Publish one Kubernetes cluster to its mesh peers."""

    cluster_name: str = required("this cluster's name, unique in the mesh: at most 32 of a-z, 0-9 and -")
    cluster_id: int = required("this cluster's number, unique in the mesh: 1 to --max-connected-clusters")
    max_connected_clusters: int = option(255, "255 or 511, the same in every cluster of the mesh")
    vxlan_port: int = option(
        VXLAN_PORT, "UDP port of the overlay, as agents are told it; the same in every cluster of the mesh"
    )
    kubeconfig: str = option("", "kubeconfig file; empty: the pod's service account, else the user's kubeconfig")
    context: str = option("", "context of the kubeconfig; empty: its current one")
    namespace: str = option(installed.DEFAULT_NAMESPACE, "namespace this program runs in")
    source: SourceChoice = option(
        SourceChoice.AUTO, "cilium: from Cilium's objects; pods: from pods and nodes; auto: Cilium's once there are any"
    )
    cilium_endpoint_slices: CiliumSlices = option(
        CiliumSlices.AUTO, "read CiliumEndpointSlices (on) or CiliumEndpoints (off); auto: slices while there are any"
    )
    service_export_mode: ExportMode = option(ExportMode.BOTH, "services-and-endpointslices, or empty: services only")
    pod_cidr: tuple[str, ...] = option(
        (),
        "the networks of this cluster's pods, where they are not what nodes, Calico's blocks and pods themselves say",
    )
    default_global_namespace: bool = option(
        True, "whether a namespace without the annotation clustermesh.cilium.io/global takes part in the mesh"
    )
    mcs_api: bool = option(False, "publish ServiceExport objects (Multi-Cluster Services API)")
    etcd_config: str = option("", "etcd client configuration file of an etcd run by others; empty: run a private one")
    manage_etcd_users: bool = option(
        False,
        "with --etcd-config: make the mesh's roles and users there, remove all others and switch access control on",
    )
    etcd_binary: str = option("etcd", "program to run as the private etcd")
    etcd_quota_mib: int = option(
        DEFAULT_QUOTA_BYTES >> 20,
        "file size at which the private etcd takes no more records; history is given up before that",
    )
    data_dir: Path = option(BASE / "data", "directory of the private etcd; its content is a cache")
    server_cert_dir: Path = option(BASE / "server", "tls.crt, tls.key and ca.crt of what peers connect to")
    ca_file: Path = option(BASE / "ca/ca.crt", "our own authority, where server-cert-dir has no ca.crt")
    ca_bundle_dir: Path = option(BASE / "ca-bundle", "one <peer>.crt per trusted peer")
    users_file: Path = option(BASE / "users/users.yaml", "which remote users may read")
    renew_certificates: bool = option(False, "issue this cluster's certificates anew at two thirds of their life")
    certificate_lifetime: float = option(DEFAULT_DAYS * DAY_S, "seconds that a new certificate lasts")
    listen_address: str = option("0.0.0.0", "address that peers and agents connect to")
    listen_port: int = option(installed.STORE_PORT, "port that peers and agents connect to; 0: any")
    status_address: str = option("0.0.0.0", "address of the status server")
    status_port: int = option(
        installed.APISERVER_PORT, "port of the status server: health and metrics for all, the rest with a token; 0: any"
    )
    status_socket: Path = option(Path(installed.APISERVER_SOCKET), "unix socket of the status server, for root here")
    probe_port: int = option(installed.PROBE_PORT, "port of liveness and readiness; 0: any")
    agent_status_port: int = option(installed.AGENT_PORT, "where each node's agent answers /v1/status")
    agent_token_file: Path = option(Path(installed.AGENT_TOKEN_FILE), "token that agents admit us by")
    identity_grace: float = option(900.0, "seconds an identity that no pod uses is kept")
    lease_ttl: float = option(KEY_TTL_S, "seconds peers keep seeing our records after we are gone")
    mirror: bool = option(False, "copy each peer's records into our own etcd, for our agents to read there")
    mirror_config_dir: Path = option(BASE / "mirror", "one connection file per peer to mirror")
    log_level: str = option("info", "how much is logged", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        parse_cluster_name(self.cluster_name)
        for cidr in self.pod_cidr:
            if canonical_prefix(cidr) != cidr:
                raise ValueError(f"--pod-cidr {cidr}: write it as {canonical_prefix(cidr)}")
        check_cluster_id(self.cluster_id, self.max_connected_clusters)
        if self.service_export_mode is ExportMode.ENDPOINT_SLICES:
            raise ValueError("--service-export-mode: services are always published, readers before 1.20 need them")
        if self.certificate_lifetime < SHORTEST_LIFETIME_S:
            raise ValueError(
                f"--certificate-lifetime {self.certificate_lifetime:g}: use {SHORTEST_LIFETIME_S:g} seconds or more"
            )
        if not 25 <= self.lease_ttl <= 86400:
            raise ValueError(f"--lease-ttl {self.lease_ttl:g}: use 25 to 86400 seconds")
