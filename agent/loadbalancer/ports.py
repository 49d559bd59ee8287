# SPDX-License-Identifier: Apache-2.0
"""Which backends of a cluster fit a service port. Pure.

Numbers may differ between clusters; the protocol must be the same, and the name too where both sides have one. A port or a
backend without a name fits any: this is Cilium's rule. Only an unnamed port that has unnamed backends takes no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from agent.tables import Backend, BackendSet, ServicePort

MOST_NAMED: Final = 10
"""Port names that a sentence lists."""
LOOKED_AT: Final = 1000
"""Backends whose port names a sentence is made of: it is for people, and one is made for each port."""


def fitting(row: BackendSet, port: ServicePort) -> Sequence[Backend]:
    """The backends for this port, in their order."""
    name, protocol = port.name, port.protocol
    if name and row.has_unnamed:
        return [b for b in row.backends if b.protocol == protocol and (name in b.names or not any(b.names))]
    found = [b for b in row.backends if b.protocol == protocol and name in b.names]
    return found if found or name else [b for b in row.backends if b.protocol == protocol]


def describe_mismatch(row: BackendSet, port: ServicePort, ports: int, found: Sequence[Backend]) -> str:
    """Why none, or only some, of a cluster's backends serve this port of a service with `ports` ports; empty if all do.

    `found` are those that fit.
    """
    label = f"port {port.name or port.port}/{port.protocol}"
    if not found and row.backends:
        return f"{label}: cluster {row.cluster} has no backend of that name and protocol, only {_names(row.backends)}"
    if ports > 1 and any(not any(b.names) for b in found):
        return f"{label}: backends of cluster {row.cluster} have no port name and serve every port of that protocol"
    names = sorted({name for b in found for name in b.names})
    if not port.name and "" not in names and len(names) > 1:
        return f"{label} has no name: all ports of cluster {row.cluster} serve it ({', '.join(names)})"
    return ""


def _names(backends: Sequence[Backend]) -> str:
    looked_at = islice(backends, LOOKED_AT)
    names = sorted({f"{name or 'unnamed'}/{b.protocol}" for b in looked_at for name in b.names})
    more = ", ..." if len(names) > MOST_NAMED or len(backends) > LOOKED_AT else ""
    return ", ".join(names[:MOST_NAMED]) + more
