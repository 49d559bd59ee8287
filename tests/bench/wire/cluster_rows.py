# SPDX-License-Identifier: Apache-2.0
"""The same cluster as the publisher sees it: rows in its tables, and Kubernetes objects of which they are made."""

from __future__ import annotations

from typing import Any

from clustermesh_apiserver.tables import Tables
from kubeintent.rows import (
    EndpointIntent,
    IdentityIntent,
    NamespaceIntent,
    NodeIntent,
    Port,
    ServiceIntent,
    SliceEndpointIntent,
    SliceIntent,
)
from meshmodel.annotations import parse_service_annotations
from tests.bench.wire import records
from tests.bench.wire.records import FIRST_IDENTITY, NAMESPACES, Shape

GLOBAL = {"service.cilium.io/global": "true"}
ANNOTATIONS = parse_service_annotations(GLOBAL)
Object = dict[str, Any]


def fill_tables(tables: Tables, shape: Shape) -> None:
    """Every table holds its rows and is complete."""
    for index in range(NAMESPACES):
        tables.namespaces.put(f"namespace-{index}", NamespaceIntent(f"namespace-{index}", True, ()))
    for index in range(shape.services):
        name = records.service_name(index)
        tables.services.put(str(name), service_row(index))
        tables.slices.put(f"{name}-1", slice_row(index))
    for index in range(shape.ips):
        row = endpoint_row(index, shape.identities)
        tables.endpoints.put(f"{row[0].namespace}/{row[0].name}", row)
    for index in range(shape.identities):
        found = records.identity_labels(index)
        identity = IdentityIntent(FIRST_IDENTITY + index, found, f"namespace-{index % NAMESPACES}")
        tables.identities.put(str(identity.number), identity)
    for index in range(shape.nodes):
        tables.nodes.put(f"node-{index}", node_row(index))
    for table in (tables.namespaces, tables.services, tables.slices, tables.endpoints, tables.identities, tables.nodes):
        table.synced = True


def service_row(index: int) -> ServiceIntent:
    name = records.service_name(index)
    labels = (("app", name.name),)
    ports = (Port("http", "TCP", 80),)
    address = records.service_ip(index)
    return ServiceIntent(name.namespace, name.name, f"uid-{index}", ANNOTATIONS, (address,), ports, labels, labels)


def slice_row(index: int, shift: int = 0) -> SliceIntent:
    name = records.service_name(index)
    endpoints = tuple(
        SliceEndpointIntent((address,), ready=True, serving=True, terminating=False, node_name=f"node-{index % 500}")
        for address in records.backend_ips(index, shift)
    )
    ports = (Port("http", "TCP", 8080),)
    return SliceIntent(name.namespace, f"{name.name}-1", name.name, "IPv4", endpoints, ports)


def endpoint_row(index: int, identities: int, shift: int = 0) -> tuple[EndpointIntent]:
    row = EndpointIntent(
        namespace=f"namespace-{index % NAMESPACES}",
        name=f"service-{index // records.BACKENDS}-5d9f7c9d4-{index:06d}",
        host_ip=records.node_ip(index % 500),
        ips=(records.pod_ip(index),),
        identity=FIRST_IDENTITY + (index + shift) % identities,
        service_account="default",
    )
    return (row,)


def node_row(index: int) -> NodeIntent:
    return NodeIntent(
        name=f"node-{index}",
        addresses=(("InternalIP", records.node_ip(index)),),
        pod_cidrs=(f"10.{64 + (index >> 8)}.{index & 255}.0/24",),
        labels=(("kubernetes.io/hostname", f"node-{index}"),),
        source="k8s",
    )


def objects(shape: Shape) -> dict[str, list[Object]]:
    """Kubernetes objects by plural, with the fields that API servers and controllers add."""
    services = range(shape.services)
    return {
        "namespaces": [_object(f"namespace-{index}") for index in range(NAMESPACES)],
        "services": [service_object(index) for index in services],
        "endpointslices": [slice_object(index) for index in services],
        "ciliumidentities": [_identity(index) for index in range(shape.identities)],
        "ciliumendpoints": [_endpoint(index, shape.identities) for index in range(shape.ips)],
        "ciliumnodes": [_node(index) for index in range(shape.nodes)],
    }


def _object(name: str, namespace: str = "", **meta: Any) -> Object:
    found = {"name": name, "uid": f"0d2ae2cf-{name}", "resourceVersion": "4711", "generation": 1, **meta}
    found["creationTimestamp"] = "2026-01-01T00:00:00Z"
    if namespace:
        found["namespace"] = namespace
    return {"metadata": found}


def service_object(index: int) -> Object:
    name = records.service_name(index)
    address = records.service_ip(index)
    spec = {
        "clusterIP": address,
        "clusterIPs": [address],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "selector": {"app": name.name},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    }
    meta = _object(name.name, name.namespace, labels={"app": name.name}, annotations=dict(GLOBAL))
    return {**meta, "spec": spec, "status": {"loadBalancer": {}}}


def slice_object(index: int, shift: int = 0, port: int = 8080) -> Object:
    name = records.service_name(index)
    endpoints = [
        {
            "addresses": [address],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{index % 500}",
            "targetRef": {"kind": "Pod", "name": f"{name.name}-{step}", "namespace": name.namespace, "uid": "0d2ae2cf"},
        }
        for step, address in enumerate(records.backend_ips(index, shift))
    ]
    labels = {"kubernetes.io/service-name": name.name, "app": name.name}
    made = _object(f"{name.name}-1", name.namespace, labels=labels)
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    return {**made, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}


def _endpoint(index: int, identities: int) -> Object:
    (row,) = endpoint_row(index, identities)
    status = {
        "id": index,
        "identity": {
            "id": row.identity,
            "labels": [str(label) for label in records.identity_labels(index % identities)],
        },
        "networking": {"addressing": [{"ipv4": row.ips[0]}], "node": row.host_ip},
        "state": "ready",
        "service-account": row.service_account,
    }
    return {**_object(row.name, row.namespace), "status": status}


def _identity(index: int) -> Object:
    security = {f"{label.source}:{label.key}": label.value for label in records.identity_labels(index)}
    return {**_object(str(FIRST_IDENTITY + index)), "security-labels": security}


def _node(index: int) -> Object:
    row = node_row(index)
    spec = {
        "addresses": [{"type": kind, "ip": ip} for kind, ip in row.addresses],
        "ipam": {"podCIDRs": list(row.pod_cidrs)},
    }
    return {**_object(row.name, labels=dict(row.labels)), "spec": spec}
