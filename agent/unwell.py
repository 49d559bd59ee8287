# SPDX-License-Identifier: Apache-2.0
"""Rows about nodes and pods that do not answer: `agent.tables` has the tables."""

from __future__ import annotations

from dataclasses import dataclass

from meshmodel.names import ClusterName, ServiceName


@dataclass(frozen=True, slots=True)
class LostNode:
    """A node of a peer that answered probes and does not any more: its pods are not chosen for new connections."""

    ip: str
    cluster: ClusterName
    reason: str


@dataclass(frozen=True, slots=True)
class FailingPods:
    """What one node's agent found: addresses of its pods that fail the health probe of a service."""

    lease: str
    node: str
    failing: tuple[tuple[ServiceName, tuple[str, ...]], ...]
