# SPDX-License-Identifier: Apache-2.0
"""EndpointSlice of a shared service → record (protobuf), or none. Pure.

None for slices of host names, which readers refuse, and for those that a mesh made itself, which would come back to
where they are from.
"""

from __future__ import annotations

from kubeintent.rows import ServiceIntent, SliceEndpointIntent, SliceIntent
from meshmodel.endpointslice import ADDRESS_TYPES, ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.export_scope import EXPORT_TO, encode_scope
from meshmodel.names import ClusterId, ClusterName


def convert_slice(
    piece: SliceIntent, service: ServiceIntent, *, cluster: ClusterName, cluster_id: ClusterId
) -> bytes | None:
    """The record's bytes. `service`: the one that owns the slice; its annotation says which peers may use it."""
    if piece.from_mesh or piece.address_type not in ADDRESS_TYPES:
        return None
    record = ClusterEndpointSlice(
        cluster=cluster,
        cluster_id=cluster_id,
        namespace=piece.namespace,
        name=piece.name,
        address_type=piece.address_type,
        labels=dict(piece.labels),
        annotations=_annotations(piece, service.annotations.export_to),
        endpoints=tuple(_endpoint(endpoint) for endpoint in piece.endpoints if endpoint.addresses),
        ports=tuple(SlicePort(port.name, port.protocol, port.port, port.app_protocol) for port in piece.ports),
    )
    return record.encode()


def _annotations(piece: SliceIntent, scope: tuple[str, ...] | None) -> dict[str, str]:
    """The slice's own; who may use it is the Service's to say."""
    kept = {name: value for name, value in piece.annotations if name != EXPORT_TO}
    return kept if scope is None else {**kept, EXPORT_TO: encode_scope(scope)}


def _endpoint(endpoint: SliceEndpointIntent) -> SliceEndpoint:
    """Every condition travels as it is: the reader of slices decides."""
    return SliceEndpoint(
        addresses=endpoint.addresses,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        hostname=endpoint.hostname,
        node_name=endpoint.node_name,
        zone=endpoint.zone,
        for_zones=endpoint.for_zones,
    )
