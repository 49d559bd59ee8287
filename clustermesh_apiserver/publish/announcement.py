# SPDX-License-Identifier: Apache-2.0
"""What this cluster says about itself: the kinds of record it publishes, and its cluster config. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from clustermesh_apiserver.settings import ApiserverSettings
from meshmodel.cluster_config import ClusterConfig, ExportMode
from meshmodel.keys import Kind
from meshmodel.names import ClusterId


def kinds_of(settings: ApiserverSettings) -> Sequence[Kind]:
    """What is published. Service exports are there, empty, even when they are off: readers wait for their canary."""
    kinds = [Kind.NODES, Kind.IDENTITIES, Kind.IPS, Kind.SERVICES, Kind.SERVICE_EXPORTS]
    return [*kinds, Kind.ENDPOINT_SLICES] if settings.service_export_mode is not ExportMode.SERVICES else kinds


def cluster_config(settings: ApiserverSettings) -> ClusterConfig:
    """What we say about ourselves."""
    return ClusterConfig(
        id=ClusterId(settings.cluster_id),
        synced_canaries=True,
        max_connected_clusters=settings.max_connected_clusters,
        service_exports_enabled=settings.mcs_api,
        endpoint_slices_export_mode=settings.service_export_mode.value,
        vxlan_port=settings.vxlan_port,
    )
