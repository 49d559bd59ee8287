# SPDX-License-Identifier: Apache-2.0
"""What one cluster contributes to one service, as a row. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.tables import NO_HINTS, Backend, BackendSet
from meshmodel.condition import Condition
from meshmodel.names import ClusterId, ClusterName, ServiceName


def make_backend_set(
    name: ServiceName,
    cluster: ClusterName,
    cluster_id: ClusterId,
    backends: Sequence[Backend],
    wall_s: float,
    *,
    is_dual: bool,
    is_withheld: bool,
) -> BackendSet:
    """The row; backends of IPv6 stand apart in it. `is_dual`: there may be some."""
    ipv6 = [backend for backend in backends if ":" in backend.address] if is_dual else ()
    if not ipv6:
        return BackendSet(name, cluster, cluster_id, tuple(backends), wall_s, *_summary(backends), is_withheld)
    ipv4 = [backend for backend in backends if ":" not in backend.address]
    wide = BackendSet(name, cluster, cluster_id, tuple(ipv6), wall_s, *_summary(ipv6), is_withheld)
    return BackendSet(name, cluster, cluster_id, tuple(ipv4), wall_s, *_summary(ipv4), is_withheld, wide)


def _summary(backends: Sequence[Backend]) -> tuple[bool, bool]:
    """Whether every backend is healthy and active and has no hints, and whether some have no port name."""
    is_plain, has_unnamed, active = True, False, Condition.ACTIVE
    for _, _, _, names, condition, is_healthy, _, _, hints in backends:
        if not is_healthy or condition is not active or hints is not NO_HINTS:
            is_plain = False
        if "" in names:
            has_unnamed = True
    return is_plain, has_unnamed
