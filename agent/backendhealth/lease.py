# SPDX-License-Identifier: Apache-2.0
"""The Lease in which a node's agent names pods that fail their health probe: written when that changes, never renewed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kube.client import KubeClient
from kube.errors import NotFound
from kube.resource import LEASES, NODES, KubeObject
from kubeintent.health import read_health
from kubeintent.rows import HealthIntent
from meshapi.installed import FAILING_PODS, HEALTH_LABELS, HEALTH_LEASE_PREFIX
from meshmodel.names import ServiceName


class HealthLease:
    """Every method blocks. Raises: KubeError."""

    def __init__(self, client: KubeClient, namespace: str, node: str) -> None:
        self._client, self._namespace, self._node = client, namespace, node
        self._name = HEALTH_LEASE_PREFIX + node

    def read(self) -> HealthIntent | None:
        """What an earlier agent of this node wrote; None if there is nothing."""
        found = self._client.get(LEASES, self._name, self._namespace)
        return read_health(found).row if found is not None else None

    def write(self, failing: Mapping[ServiceName, Iterable[str]]) -> None:
        """The Lease names these; it is made for the first of them."""
        text = msgspec.json.encode({str(n): list(ips) for n, ips in failing.items()}, order="sorted").decode()
        body: KubeObject = {
            "metadata": {"labels": HEALTH_LABELS, "annotations": {FAILING_PODS: text}},
            "spec": {"holderIdentity": self._node},
        }
        try:
            self._client.patch_merge(LEASES, self._name, body, self._namespace)
        except NotFound:
            if not failing:
                return
            body["metadata"] |= {"name": self._name, "namespace": self._namespace, "ownerReferences": self._owners()}
            self._client.create(LEASES, body)

    def _owners(self) -> list[KubeObject]:
        """The Lease goes with the Node."""
        found = self._client.list(NODES, field_selector=f"metadata.name={self._node}")
        return [
            {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]} for node in found
        ]
