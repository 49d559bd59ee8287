# SPDX-License-Identifier: Apache-2.0
"""The Lease of this node's agent: what it confirms is written there, and read back by the next agent of the node."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from kube.client import KubeClient
from kube.errors import NotFound
from kube.resource import LEASES, NODES, KubeObject
from kubeintent.confirmation import read_confirmation
from meshapi.installed import CONFIRMED_PODS, LEASE_LABELS, LEASE_PREFIX

DURATION_S: Final = 180


class ConfirmationLease:
    """Every method blocks. Raises: KubeError."""

    def __init__(self, client: KubeClient, namespace: str, node: str) -> None:
        self._client, self._namespace, self._node = client, namespace, node
        self._name = LEASE_PREFIX + node

    def read(self) -> Mapping[str, str]:
        """What an earlier agent wrote; empty if there is nothing."""
        found = self._client.get(LEASES, self._name, self._namespace)
        row = read_confirmation(found).row if found is not None else None
        return row.pods if row is not None else {}

    def write(self, pods: Mapping[str, str], wall_s: float) -> None:
        """The Lease names these pods, and was renewed at this time."""
        renewed = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        text = msgspec.json.encode(pods, order="sorted").decode()
        body: KubeObject = {
            "metadata": {"labels": LEASE_LABELS, "annotations": {CONFIRMED_PODS: text}},
            "spec": {"holderIdentity": self._node, "leaseDurationSeconds": DURATION_S, "renewTime": renewed},
        }
        try:
            self._client.patch_merge(LEASES, self._name, body, self._namespace)
        except NotFound:
            body["metadata"] |= {"name": self._name, "namespace": self._namespace, "ownerReferences": self._owners()}
            self._client.create(LEASES, body)

    def _owners(self) -> list[KubeObject]:
        """The Lease goes with the Node."""
        found = self._client.list(NODES, field_selector=f"metadata.name={self._node}")
        return [
            {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]} for node in found
        ]
