# SPDX-License-Identifier: Apache-2.0
"""Every address that rows give a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from agent.mesh.record_rows import SliceSets
from agent.tables import AgentDB, ClaimOrigin
from meshmodel.names import ClusterName


def held_addresses(db: AgentDB, cluster: ClusterName, slices: SliceSets) -> Iterator[str]:
    """Of its pods, their tunnel endpoints and its backends; those of `slices` too, which may wait to become rows."""
    for row in db.prefixes.rows():
        if row.cluster == cluster and row.origin is ClaimOrigin.POD:
            yield row.prefix
            if row.host:
                yield row.host
    for backends in (row.backends for row in db.backends.rows() if row.cluster == cluster):
        yield from (backend.address for backend in backends)
    yield from (backend.address for _, piece in slices.pieces() for backend in piece.backends)
