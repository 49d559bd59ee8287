# SPDX-License-Identifier: Apache-2.0
"""EndpointSlice of a shared service → record (K12), or none. Pure.

None for slices of host names, which readers refuse, and for those that a mesh made itself, which would come back to
where they are from.
"""

from __future__ import annotations

from kubeintent.rows import Endpoint, SliceIntent
from meshmodel.address import canonical_ip
from meshmodel.endpointslice import ADDRESS_TYPES, ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.names import ClusterId, ClusterName


def convert_slice(piece: SliceIntent, *, cluster: ClusterName, cluster_id: ClusterId) -> bytes | None:
    """The record's bytes."""
    if piece.from_mesh or piece.address_type not in ADDRESS_TYPES:
        return None
    record = ClusterEndpointSlice(
        cluster=cluster,
        cluster_id=cluster_id,
        namespace=piece.namespace,
        name=piece.name,
        address_type=piece.address_type,
        labels=dict(piece.labels),
        annotations=dict(piece.annotations),
        endpoints=tuple(found for endpoint in piece.endpoints if (found := _endpoint(endpoint, piece.address_type))),
        ports=tuple(SlicePort(port.name, port.protocol, port.port, port.app_protocol) for port in piece.ports),
    )
    return record.encode()


def _endpoint(endpoint: Endpoint, family: str) -> SliceEndpoint | None:
    """Every condition travels as it is: the reader of slices decides. One bad address would cost the whole slice."""
    addresses = tuple(text for text in endpoint.addresses if _is_of(text, family))
    if not addresses:
        return None
    return SliceEndpoint(
        addresses=addresses,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        hostname=endpoint.hostname,
        node_name=endpoint.node_name,
        zone=endpoint.zone,
        for_zones=endpoint.for_zones,
    )


def _is_of(text: str, family: str) -> bool:
    try:
        return (":" in canonical_ip(text)) == (family == "IPv6")
    except ValueError:
        return False
