# SPDX-License-Identifier: Apache-2.0
"""Whether two clusters may be connected, and what each of them is told about the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import yaml

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.check_row import failures
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.mesh_rules import judge_mesh
from meshapi.installed import CA_SUFFIX, LOCAL_DIRECTORY, PEER_DIRECTORY, REMOTE_DIRECTORY, STORE_PORT, STORE_SERVICE


@dataclass(frozen=True, slots=True)
class PeerLink:
    """`reader` gets a connection file of `target`, and `target` admits `reader`'s certificates.

    `networks` is the list of pod networks in that file; None keeps the list that is there. `flows`: whether the target grants
    flows to the reader; None leaves that as it is.
    """

    reader: ClusterFacts
    target: ClusterFacts
    networks: tuple[str, ...] | None = None
    flows: bool | None = None

    def trusting(self, trust: Mapping[str, bytes]) -> PeerLink:
        """The link by these authorities of both clusters, PEM by context."""
        reader, target = (replace(cluster, ca_pem=trust[cluster.context]) for cluster in (self.reader, self.target))
        return replace(self, reader=reader, target=target)


def plan_links(local: ClusterFacts, remotes: Iterable[ClusterFacts], mode: Mode) -> tuple[PeerLink, ...]:
    """Every directed link the mode asks for, in the order they are applied."""
    others = tuple(remotes)
    match mode:
        case Mode.UNICAST:
            return tuple(PeerLink(local, r) for r in others)
        case Mode.BIDIRECTIONAL:
            return tuple(link for r in others for link in (PeerLink(local, r), PeerLink(r, local)))
        case Mode.MESH:
            pairs = combinations((local, *others), 2)
            return tuple(link for a, b in pairs for link in (PeerLink(a, b), PeerLink(b, a)))


def check_all(clusters: Iterable[ClusterFacts]) -> None:
    """Raises CommandRefusedError, naming both clusters, when any two of them cannot share a mesh.

    Peers that either side already has count as well, so that a third cluster with the same id is found before a packet is.
    """
    for row in failures(judge_mesh(tuple(clusters))):
        raise CommandRefusedError(row.detail)


def check_access(cluster: ClusterFacts) -> StoreAccess:
    """Raises CommandRefusedError when nobody could reach the cluster."""
    if cluster.access is None:
        raise CommandRefusedError(
            f"{cluster.name}: Service clustermesh-apiserver has no address yet: wait for the load balancer "
            "(clustermesh status --wait), or give --destination-endpoint/--source-endpoint"
        )
    return cluster.access


def check_flows(cluster: ClusterFacts) -> StoreAccess:
    """Raises CommandRefusedError when nobody could ask the cluster's relay."""
    if cluster.flows is None:
        raise CommandRefusedError(
            f"{cluster.name} has no relay of flows, or it has no address yet: "
            f"run clustermesh enable --with-relay --context {cluster.context}, or leave out --allow-flows"
        )
    return cluster.flows


def peer_config(target: ClusterFacts) -> str:
    """The etcd client file by which `target` itself is read. Source: spec of the wire format, 5.2."""
    access = check_access(target)
    host = f"{target.name}.mesh.cilium.io"
    return yaml.safe_dump(
        {
            "endpoints": [f"https://{host}:{access.port}"],
            "trusted-ca-file": f"{PEER_DIRECTORY}/{target.name}{CA_SUFFIX}",
            "cert-file": f"{REMOTE_DIRECTORY}/tls.crt",
            "key-file": f"{REMOTE_DIRECTORY}/tls.key",
            "cilium-host-aliases": [{"hostname": host, "ips": list(access.addresses)}],
        },
        sort_keys=False,
    )


def mirrored_config(namespace: str) -> str:
    """The etcd client file by which agents read a mirrored peer: our own store, as its `local` user."""
    return yaml.safe_dump(
        {
            "endpoints": [f"https://{STORE_SERVICE}.{namespace}.svc:{STORE_PORT}"],
            "trusted-ca-file": f"{LOCAL_DIRECTORY}/ca.crt",
            "cert-file": f"{LOCAL_DIRECTORY}/tls.crt",
            "key-file": f"{LOCAL_DIRECTORY}/tls.key",
        },
        sort_keys=False,
    )
