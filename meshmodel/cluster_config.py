# SPDX-License-Identifier: Apache-2.0
"""The first record a reader looks at: who a cluster is and what it can do. Source: docs/wire.md, cluster config."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from meshmodel.errors import ModelError
from meshmodel.keys import cluster_config_key
from meshmodel.names import ClusterId, ClusterName, check_cluster_id
from meshmodel.wire import JsonReader, encode_json

DEFAULT_MAXIMUM: Final = 255
VXLAN_PORT: Final = 8472
"""UDP port of the overlay of a cluster that names none, as every cluster of Cilium does."""
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class ExportMode(StrEnum):
    """How a cluster publishes the backends of its services."""

    SERVICES = ""
    BOTH = "services-and-endpointslices"
    ENDPOINT_SLICES = "endpointslices-only"


class _Capabilities(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel", frozen=True):
    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: Uint32 = 0
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""
    vxlan_port: Uint32 = 0


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    id: Uint32 = 0
    capabilities: _Capabilities | None = None


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`service_exports_enabled` is None when the cluster does not know service exports at all: not the same as False.

    `endpoint_slices_export_mode` is the text as published; `export_mode` is its meaning. `vxlan_port` is the UDP port of the
    cluster's overlay.
    """

    id: ClusterId
    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: int = DEFAULT_MAXIMUM
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""
    vxlan_port: int = VXLAN_PORT

    @property
    def export_mode(self) -> ExportMode:
        """Raises: ModelError when the mode is none we know; such a cluster must not be connected to."""
        try:
            return ExportMode(self.endpoint_slices_export_mode)
        except ValueError:
            raise ModelError(
                f"endpoint slices export mode {self.endpoint_slices_export_mode[:64]!r} is not supported: "
                "upgrade this cluster, or set the peer to services-and-endpointslices"
            ) from None

    def encode(self) -> bytes:
        """The bytes of the record, like Cilium's own."""
        capabilities = _Capabilities(
            synced_canaries=self.synced_canaries,
            cached=self.cached,
            max_connected_clusters=self.max_connected_clusters,
            service_exports_enabled=self.service_exports_enabled,
            endpoint_slices_export_mode=self.endpoint_slices_export_mode,
            vxlan_port=0 if self.vxlan_port == VXLAN_PORT else self.vxlan_port,
        )
        return encode_json(_Wire(id=self.id, capabilities=capabilities))

    def mirrored(self) -> ClusterConfig:
        """What a mirror publishes of this cluster: the same, with canaries and the cached layout."""
        return msgspec.structs.replace(self, synced_canaries=True, cached=True)


_reader: Final = JsonReader(_Wire, 64 * 1024)


def decode(value: bytes, *, cluster: str = "") -> ClusterConfig:
    """The record as it is, whether or not it may be connected to: that is for check_peer_config.

    Raises: RecordError.
    """
    wire = _reader.read(cluster_config_key(cluster).decode(), value)
    capabilities = wire.capabilities or _Capabilities()
    return ClusterConfig(
        id=ClusterId(wire.id),
        synced_canaries=capabilities.synced_canaries,
        cached=capabilities.cached,
        max_connected_clusters=capabilities.max_connected_clusters or DEFAULT_MAXIMUM,
        service_exports_enabled=capabilities.service_exports_enabled,
        endpoint_slices_export_mode=capabilities.endpoint_slices_export_mode,
        vxlan_port=capabilities.vxlan_port or VXLAN_PORT,
    )


def check_peer_config(
    config: ClusterConfig,
    *,
    local_id: int,
    local_maximum: int = DEFAULT_MAXIMUM,
    local_vxlan_port: int = VXLAN_PORT,
    taken: Mapping[ClusterId, ClusterName] | None = None,
    peer: str = "",
) -> tuple[str, ...]:
    """We may connect to this cluster; returns warnings. `taken` are the ids other peers hold (the peer's own is fine).

    Raises: ModelError saying what is wrong and what to change.
    """
    check_cluster_id(config.id, local_maximum)
    if local_maximum not in (DEFAULT_MAXIMUM, config.max_connected_clusters):
        raise ModelError(
            f"mismatched MaxConnectedClusters; local={local_maximum}, remote={config.max_connected_clusters}: "
            "every cluster of a mesh must have the same"
        )
    if config.id == local_id:
        raise ModelError(f"ClusterID {config.id} is assigned to the local cluster: give one of the two another id")
    holder = (taken or {}).get(config.id)
    if holder is not None and holder != peer:
        raise ModelError(f"ClusterID {config.id} is already used by cluster {holder}: give one of the two another id")
    if config.vxlan_port != local_vxlan_port:
        raise ModelError(
            f"mismatched VXLAN port; local={local_vxlan_port}, remote={config.vxlan_port}: the overlays of a mesh have "
            "one: enable --set agent.vxlan-port=PORT --set apiserver.vxlan-port=PORT"
        )
    _ = config.export_mode
    if config.max_connected_clusters != local_maximum:
        warning = f"mismatched MaxConnectedClusters; local={local_maximum}, remote={config.max_connected_clusters}"
        return (f"{warning}: its identities will be refused until both have the same",)
    return ()
