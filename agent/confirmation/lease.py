# SPDX-License-Identifier: Apache-2.0
"""The Lease of this node's agent: what it confirms is written there, and read back by the next agent of the node."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from agent.node_lease import NodeLease
from kube.client import KubeClient
from kubeintent.confirmation import read_confirmation
from meshapi.installed import CONFIRMED_PODS, LEASE_LABELS, LEASE_PREFIX

DURATION_S: Final = 180


class ConfirmationLease:
    """Every method blocks. Raises: KubeError."""

    def __init__(self, client: KubeClient, namespace: str, node: str) -> None:
        self._lease = NodeLease(client, namespace, node, LEASE_PREFIX, LEASE_LABELS, CONFIRMED_PODS)

    def read(self) -> Mapping[str, str]:
        """What an earlier agent wrote; empty if there is nothing."""
        found = self._lease.read()
        row = read_confirmation(found).row if found is not None else None
        return row.pods if row is not None else {}

    def write(self, pods: Mapping[str, str], wall_s: float) -> None:
        """The Lease names these pods, and was renewed at this time."""
        renewed = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._lease.write(pods, {"leaseDurationSeconds": DURATION_S, "renewTime": renewed})
