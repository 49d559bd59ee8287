# SPDX-License-Identifier: Apache-2.0
"""What `enable` installs under which name: programs, ports, Secrets, ConfigMaps and their keys, labels, accounts. Pure.

The manifests under deploy/ name the same; a test compares them.
"""

from __future__ import annotations

from typing import Final

DEFAULT_NAMESPACE: Final = "kube-system"
"""Where the mesh runs in a cluster, unless `--namespace` says otherwise."""

# programs: the name of the workload, its ServiceAccount, its roles and its `k8s-app` label
AGENT: Final = "clustermesh-agent"
PROXIES: Final = "clustermesh-proxies"
"""Keeps Envoy and the DNS proxy of each node; it has no account of its own."""
APISERVER: Final = "clustermesh-apiserver"
RELAY: Final = "clustermesh-relay"
VIEWER: Final = "clustermesh-viewer"
"""The account whose tokens read the programs' REST interfaces; no pod runs as it."""

PART_OF: Final = {"app.kubernetes.io/part-of": "clustermesh"}
"""The label of every object of ours."""
AGENT_SELECTOR: Final = f"k8s-app={AGENT}"
APISERVER_SELECTOR: Final = f"k8s-app={APISERVER}"

# Services of the apiserver
STORE_SERVICE: Final = APISERVER
STATUS_SERVICE: Final = "clustermesh-apiserver-status"
# Services of the relay, the first under Hubble's name, so that Hubble's clients find it
RELAY_SERVICE: Final = "hubble-relay"
RELAY_HTTP_SERVICE: Final = RELAY
RELAY_PEERS_SERVICE: Final = "clustermesh-relay-peers"

# TCP ports
STORE_PORT: Final = 2379
STORE_NODE_PORT: Final = 32379
AGENT_PORT: Final = 9879
APISERVER_PORT: Final = 9880
FLOW_PORT: Final = 4244
"""Hubble's, of the observer in each agent."""
KUBELET_PORT: Final = 10250
"""Kubernetes' own, of the kubelet on each node."""
RELAY_PORT: Final = 4245
"""Hubble's, of a relay."""
RELAY_PEERS_PORT: Final = 4246
RELAY_HTTP_PORT: Final = 9882
PROBE_PORT: Final = 9881
"""Liveness and readiness of both: the agent's on its node's 127.0.0.1, the apiserver's on its pod's address."""

PROXIES_PROBE_PORT: Final = 9883
"""The same of what keeps the proxies, on its node's 127.0.0.1."""

# how a program is asked over the network: a bearer token of this audience, in this header or in Authorization
TOKEN_AUDIENCE: Final = "clustermesh"
TOKEN_HEADER: Final = "x-clustermesh-token"
AGENT_SOCKET: Final = "/run/clustermesh/agent.sock"
APISERVER_SOCKET: Final = "/run/clustermesh/apiserver.sock"
RELAY_SOCKET: Final = "/run/clustermesh/relay.sock"
FLOW_SOCKET: Final = "flows.sock"
"""Of the observer, beside the agent's."""
AGENT_TOKEN_FILE: Final = "/run/secrets/clustermesh/token"
"""The apiserver's own token for asking agents."""

# where containers find what is mounted into them, and where the agent pins programs and maps on its node
STATE_DIRECTORY: Final = "/var/lib/clustermesh"
LOCAL_DIRECTORY: Final = f"{STATE_DIRECTORY}/local"
"""Certificates for reading the own store."""
REMOTE_DIRECTORY: Final = f"{STATE_DIRECTORY}/remote"
"""Certificates for reading peers' stores."""
FLOW_DIRECTORY: Final = f"{STATE_DIRECTORY}/flows"
"""Certificates for serving flows."""
FLOW_PEER_DIRECTORY: Final = f"{STATE_DIRECTORY}/flow-peers"
RELAY_DIRECTORY: Final = f"{STATE_DIRECTORY}/relay"
"""The relay's certificates for asking observers."""
RELAY_SERVER_DIRECTORY: Final = f"{STATE_DIRECTORY}/relay-server"
"""The relay's certificates for serving."""
PEER_DIRECTORY: Final = "/var/lib/cilium/clustermesh"
"""The connection files of peers, and what they name: where Cilium's programs look for them too."""
PIN_DIRECTORY: Final = "/sys/fs/bpf/clustermesh"
CONTROL_GROUP: Final = "/run/clustermesh-cgroup"
"""Where the agent's pod has the node's cgroup v2 hierarchy."""
NET_SETTINGS: Final = "/run/clustermesh-sysctl"
"""Where the agent's pod has /proc/sys/net of the node, to write to."""

# how each node's agent says which pods it enforces: a Lease of its own in our namespace, read by the apiserver
LEASE_PREFIX: Final = "clustermesh-agent-"
"""The node's name follows; the holder is the node."""
LEASE_LABELS: Final = {"k8s-app": AGENT, **PART_OF}
OWN_PREFIX: Final = "mesh.clustermesh.io/"
"""Of annotations that only our programs write and read; Cilium ignores them."""
HEALTH_LEASE_PREFIX: Final = "clustermesh-health-"
HEALTH_SELECTOR: Final = f"{OWN_PREFIX}health=pods"
HEALTH_LABELS: Final = {**LEASE_LABELS, OWN_PREFIX + "health": "pods"}
FAILING_PODS: Final = OWN_PREFIX + "failing-pods"
CONFIRMED_PODS: Final = OWN_PREFIX + "confirmed-pods"
"""The annotation: a JSON object from pod address to pod uid, or to namespace/name where the agent was never told the uid."""

LEAST_KERNEL: Final = (5, 12)
"""Of every node: from here on the verifier looks at our functions one by one; before, the programs are too long for it."""

# ConfigMaps, and the keys of the first
CONFIG_MAP: Final = "clustermesh-config"
CILIUM_CONFIG_MAP: Final = "cilium-config"
CLUSTER_NAME_KEY: Final = "cluster-name"
CLUSTER_ID_KEY: Final = "cluster-id"
MAXIMUM_KEY: Final = "max-connected-clusters"
SCOPE_KEY: Final = "policy-default-local-cluster"
RELAY_KEY: Final = "enable-relay"
MIRROR_KEY: Final = "enable-kvstoremesh"
LIFETIME_KEY: Final = "certificate-lifetime-s"
CA_BUNDLE: Final = "clustermesh-ca-bundle"
REMOTE_USERS: Final = "clustermesh-remote-users"
DRAINED: Final = "clustermesh-drained"
"""Clusters that take no new connections of this one's clients, by name; the value says since when, for people."""
FLOW_GRANT: Final = "flows-"
"""In that ConfigMap: this before the name of a peer says which of our flows its relay gets."""
GRANTED: Final = "shared"
"""Those in which its own cluster takes part."""
FLOW_PEERS: Final = "clustermesh-flow-peers"
"""Where relays of peers are that granted us flows: HOST:PORT,... by the name of the peer."""
REMOTE_USER: Final = "remote-"
"""The name of the user of a cluster that reads another is this before its own."""

# Secrets
CA_SECRET: Final = "clustermesh-ca"
SERVER_SECRET: Final = "clustermesh-apiserver-server-cert"
ADMIN_SECRET: Final = "clustermesh-apiserver-admin-cert"
LOCAL_SECRET: Final = "clustermesh-apiserver-local-cert"
REMOTE_SECRET: Final = "clustermesh-apiserver-remote-cert"
PEERS_SECRET: Final = "cilium-clustermesh"
MIRROR_SECRET: Final = "cilium-kvstoremesh"
CA_SUFFIX: Final = ".etcd-client-ca.crt"
"""After a peer's name, of the entry with its authorities in both."""
OBSERVER_SECRET: Final = "clustermesh-observer-cert"
RELAY_SECRET: Final = "clustermesh-relay-client-cert"
RELAY_SERVER_SECRET: Final = "clustermesh-relay-server-cert"
CERTIFICATE_SECRETS: Final = (
    SERVER_SECRET, ADMIN_SECRET, LOCAL_SECRET, REMOTE_SECRET, OBSERVER_SECRET, RELAY_SECRET, RELAY_SERVER_SECRET,
)  # fmt: skip
