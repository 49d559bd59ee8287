# SPDX-License-Identifier: Apache-2.0
"""ServiceExport + its Service + its namespace → one record, or none. Pure.

Source: Multi-Cluster Services API (KEP-1645); an ExternalName cannot be exported, an export without a Service says
nothing yet.
"""

from __future__ import annotations

from kubeintent.rows import ExportIntent, NamespaceIntent, ServiceIntent
from meshmodel.names import ClusterName, ServiceName
from meshmodel.serviceexport import ExportPort, ExportType, ServiceExport, SessionAffinity


def convert_export(
    export: ExportIntent, service: ServiceIntent | None, namespace: NamespaceIntent, *, cluster: ClusterName
) -> bytes | None:
    """The record's bytes."""
    if service is None or service.external_name or not namespace.is_global or not export.created:
        return None
    is_sticky = service.session_affinity == SessionAffinity.CLIENT_IP
    record = ServiceExport(
        cluster=cluster,
        name=ServiceName(export.namespace, export.name),
        created=export.created,
        type=ExportType.HEADLESS if service.headless else ExportType.CLUSTER_SET_IP,
        session_affinity=SessionAffinity.CLIENT_IP if is_sticky else SessionAffinity.NONE,
        session_affinity_timeout_s=service.affinity_timeout_s or None if is_sticky else None,
        ports=tuple(
            ExportPort(name=port.name, protocol=port.protocol, app_protocol=port.app_protocol or None, port=port.port)
            for port in service.ports
            if port.port is not None
        ),
        annotations=dict(export.annotations),
        labels=dict(export.labels),
    )
    return record.encode()
