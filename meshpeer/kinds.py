# SPDX-License-Identifier: Apache-2.0
"""Which kinds of records of a cluster are followed, by what its configuration offers. Pure."""

from __future__ import annotations

from typing import Final

from meshmodel.cluster_config import ClusterConfig, ExportMode
from meshmodel.keys import Kind

OWN_KINDS: Final = (Kind.NODES, Kind.IDENTITIES, Kind.IPS)
BACKEND_KINDS: Final = (Kind.SERVICES, Kind.ENDPOINT_SLICES)


def offered_kinds(config: ClusterConfig) -> tuple[Kind, ...]:
    """Everything the cluster publishes. Raises: ModelError when its export mode is unknown."""
    mode = config.export_mode
    services = () if mode is ExportMode.ENDPOINT_SLICES else (Kind.SERVICES,)
    slices = () if mode is ExportMode.SERVICES else (Kind.ENDPOINT_SLICES,)
    exports = () if config.service_exports_enabled is None else (Kind.SERVICE_EXPORTS,)
    return (Kind.NODES, Kind.IDENTITIES, *services, *slices, *exports, Kind.IPS)


def backends_once(config: ClusterConfig, *, prefer_slices: bool) -> tuple[Kind, ...]:
    """Nodes, identities, addresses and one of the two forms of backends.

    Services, unless slices are preferred and offered, or the cluster publishes nothing else.
    Raises: ModelError when the export mode is unknown.
    """
    offered = offered_kinds(config)
    order = reversed(BACKEND_KINDS) if prefer_slices else BACKEND_KINDS
    backends = next(kind for kind in order if kind in offered)
    return (Kind.NODES, Kind.IDENTITIES, backends, Kind.IPS)
