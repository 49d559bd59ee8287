# SPDX-License-Identifier: Apache-2.0
"""What a cluster says about itself before anything else (K4), and when we refuse to read it. Source: spec, 2.1 and 4.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from meshmodel.errors import ModelError
from meshmodel.limits import decode_json
from meshmodel.names import ClusterId, ClusterName

SERVICES_ONLY: Final = ""
SERVICES_AND_SLICES: Final = "services-and-endpointslices"
SLICES_ONLY: Final = "endpointslices-only"
_MODES: Final = (SERVICES_ONLY, SERVICES_AND_SLICES, SLICES_ONLY)


class Capabilities(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a reader may rely on. Absent and False differ for `service_exports_enabled`: absent is "does not know of it"."""

    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: int = 0
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class ClusterConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Id and capabilities of one cluster."""

    id: int = 0
    capabilities: Capabilities = Capabilities()

    @property
    def maximum(self) -> int:
        """How many clusters its mesh may have; not saying means 255."""
        return self.capabilities.max_connected_clusters or 255

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


_DECODER: Final = msgspec.json.Decoder(ClusterConfig)


def decode(key: str, value: bytes) -> ClusterConfig:
    """Raises RecordError: bad-json, wrong-type, too-large."""
    return decode_json(_DECODER, key, value)


def cached_config(source: ClusterConfig) -> ClusterConfig:
    """What a mirror says of a peer: the peer's own words, with canaries and the cached layout."""
    return msgspec.structs.replace(
        source, capabilities=msgspec.structs.replace(source.capabilities, synced_canaries=True, cached=True)
    )


def check_peer_config(
    config: ClusterConfig, *, name: str, local_id: int, local_maximum: int, taken: Mapping[ClusterId, ClusterName]
) -> ClusterId:
    """The peer's id, if we can share a mesh with it. Raises ModelError saying what is wrong and who must change."""
    if config.id == 0:
        raise ModelError(f"{name}: ClusterID 0 is reserved; give that cluster an id of its own")
    if config.id < 0 or config.id > local_maximum:
        raise ModelError(f"{name}: ClusterID {config.id} > {local_maximum} is not supported here")
    if local_maximum != 255 and config.maximum != local_maximum:
        raise ModelError(
            f"{name}: mismatched MaxConnectedClusters; local={local_maximum}, remote={config.maximum}: "
            "identities would be numbered differently; set it alike in both clusters"
        )
    if config.id == local_id:
        raise ModelError(f"{name}: ClusterID {config.id} is assigned to the local cluster; one of the two must change")
    holder = taken.get(ClusterId(config.id))
    if holder is not None and holder != name:
        raise ModelError(f"{name}: ClusterID {config.id} is already used by {holder}; one of the two must change")
    mode = config.capabilities.endpoint_slices_export_mode
    if mode not in _MODES:
        raise ModelError(f"{name}: unknown endpoint slice export mode {mode[:64]!r}; upgrade this cluster first")
    return ClusterId(config.id)
