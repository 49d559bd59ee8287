# SPDX-License-Identifier: Apache-2.0
"""What of a slice peers hear of while pods fail the health probe of their service: as little as if these were not ready. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kubeintent.rows import HealthIntent, ServiceIntent, SliceIntent
from meshmodel.names import ServiceName


def without_failing(piece: SliceIntent, service: ServiceIntent, words: Iterable[Any]) -> SliceIntent:
    """The slice without addresses of pods that the agent of their node says fail; an agent is believed about its own node."""
    if service.annotations.health_probe is None:
        return piece
    wanted = ServiceName(service.namespace, service.name)
    failing = {
        (row.node, address)
        for row in words
        if isinstance(row, HealthIntent)
        for name, addresses in row.failing
        if name == wanted
        for address in addresses
    }
    if not failing:
        return piece
    kept = (
        e._replace(addresses=tuple(ip for ip in e.addresses if (e.node_name, ip) not in failing))
        for e in piece.endpoints
    )
    return replace(piece, endpoints=tuple(e for e in kept if e.addresses))
