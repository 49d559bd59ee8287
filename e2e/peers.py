# SPDX-License-Identifier: Apache-2.0
"""Peers by hand: files in the Secret that agents read, and a third cluster that is nothing but an etcd in a pod."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from e2e.mesh import SYSTEM, Cluster, Mesh

SECRET = "cilium-clustermesh"
HOTH = """
apiVersion: v1
kind: Pod
metadata: {name: hoth-store, labels: {name: hoth-store}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: etcd
    image: debian
    command:
    - etcd
    - --data-dir=/tmp/hoth
    - --listen-client-urls=http://0.0.0.0:2379
    - --advertise-client-urls=http://127.0.0.1:2379
    - --listen-peer-urls=http://127.0.0.1:0
    - --initial-advertise-peer-urls=http://127.0.0.1:0
    - --initial-cluster=default=http://127.0.0.1:0
"""


def set_peer_file(mesh: Mesh, cluster: Cluster, name: str, text: str | None) -> None:
    """The agents of the cluster find this file among their peers' files; None takes it away."""
    value = None if text is None else base64.b64encode(text.encode()).decode()
    patch = json.dumps({"data": {name: value}})
    mesh.kubectl(cluster, "patch", "secret", "-n", SYSTEM, SECRET, "--type=merge", "-p", patch)


@contextmanager
def peer_file(mesh: Mesh, cluster: Cluster, name: str, text: str) -> Iterator[None]:
    try:
        set_peer_file(mesh, cluster, name, text)
        yield
    finally:
        set_peer_file(mesh, cluster, name, None)


@contextmanager
def hoth(mesh: Mesh, cluster: Cluster, records: Mapping[str, object]) -> Iterator[str]:
    """A peer of the cluster with these records, and no other; yields the text of its peer file."""
    try:
        mesh.apply(cluster, HOTH)
        mesh.kubectl(cluster, "wait", "--for=condition=Ready", "pod/hoth-store", "--timeout=30s")
        address = mesh.pod(cluster, "hoth-store")[2]
        put = ("env", "ETCDCTL_API=3", "etcdctl", "put")
        mesh.wait_until(
            "hoth's etcd takes records",
            lambda: mesh.kubectl(cluster, "exec", "hoth-store", "--", *put, "x", "", check=False).returncode == 0,
        )
        for key, value in records.items():
            text = value if isinstance(value, str) else json.dumps(value)
            mesh.kubectl(cluster, "exec", "-i", "hoth-store", "--", *put, key, input=text)
        yield f"endpoints: ['http://{address}:2379']\n"
    finally:
        mesh.delete(cluster, HOTH)


def peer_seen(mesh: Mesh, cluster: Cluster, node: str, peer: str) -> dict[str, object]:
    """What the agent of the node says of a peer. Raises: LookupError where it knows none of this name."""
    for found in mesh.agent_rest(cluster, node, "/v1/clusters"):
        if found["name"] == peer:
            return dict(found)
    raise LookupError(f"{node} knows no peer {peer}")


def mirrored(mesh: Mesh, cluster: Cluster, peer: str) -> dict[str, object]:
    """What the cluster's apiserver, which copies peers for the agents, says of a peer. Raises: LookupError."""
    for found in mesh.apiserver_rest(cluster, "/v1/clusters"):
        if found["name"] == peer:
            return dict(found)
    raise LookupError(f"{cluster} mirrors no peer {peer}")
