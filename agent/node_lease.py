# SPDX-License-Identifier: Apache-2.0
"""A Lease by which this node's agent tells its cluster something: one annotation, read back by the next agent of the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kube.client import KubeClient
from kube.errors import NotFound
from kube.resource import LEASES, NODES, KubeObject


@dataclass(frozen=True, slots=True)
class NodeLease:
    """`prefix` and the node make its name. Every method blocks. Raises: KubeError."""

    client: KubeClient
    namespace: str
    node: str
    prefix: str
    labels: Mapping[str, str]
    annotation: str

    def read(self) -> KubeObject | None:
        """The object as an earlier agent of this node left it; None if there is none."""
        return self.client.get(LEASES, self.prefix + self.node, self.namespace)

    def write(self, said: Mapping[str, object], spec: Mapping[str, Any], *, is_made: bool = True) -> None:
        """The annotation is `said` as JSON. `is_made`: where there is no Lease, it is made, and goes with the Node."""
        text = msgspec.json.encode(said, order="sorted").decode()
        metadata: dict[str, Any] = {"labels": dict(self.labels), "annotations": {self.annotation: text}}
        body: KubeObject = {"metadata": metadata, "spec": {"holderIdentity": self.node, **spec}}
        name = self.prefix + self.node
        try:
            self.client.patch_merge(LEASES, name, body, self.namespace)
        except NotFound:
            if is_made:
                metadata |= {"name": name, "namespace": self.namespace, "ownerReferences": self._owners()}
                self.client.create(LEASES, body)

    def _owners(self) -> list[KubeObject]:
        found = self.client.list(NODES, field_selector=f"metadata.name={self.node}")
        return [
            {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node["metadata"]["uid"]} for node in found
        ]
