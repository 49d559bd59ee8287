# SPDX-License-Identifier: Apache-2.0
"""The Lease in which a node's agent names pods that fail their health probe: written when that changes, never renewed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.node_lease import NodeLease
from kube.client import KubeClient
from kubeintent.health import read_health
from kubeintent.rows import HealthIntent
from meshapi.installed import FAILING_PODS, HEALTH_LABELS, HEALTH_LEASE_PREFIX
from meshmodel.names import ServiceName


class HealthLease:
    """Every method blocks. Raises: KubeError."""

    def __init__(self, client: KubeClient, namespace: str, node: str) -> None:
        self._lease = NodeLease(client, namespace, node, HEALTH_LEASE_PREFIX, HEALTH_LABELS, FAILING_PODS)

    def read(self) -> HealthIntent | None:
        """What an earlier agent of this node wrote; None if there is nothing."""
        found = self._lease.read()
        return read_health(found).row if found is not None else None

    def write(self, failing: Mapping[ServiceName, Iterable[str]]) -> None:
        """The Lease names these; it is made for the first of them."""
        said = {str(name): list(addresses) for name, addresses in failing.items()}
        self._lease.write(said, {}, is_made=bool(failing))
