# SPDX-License-Identifier: Apache-2.0
"""From a Kubernetes object to its row. Runs in the reflectors' threads; a field that is missing reads as its zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from kubeintent.rows import (
    Endpoint,
    EndpointIntent,
    ExportIntent,
    IdentityIntent,
    NamespaceIntent,
    NodeIntent,
    Pairs,
    PodIntent,
    Port,
    ServiceIntent,
    SliceIntent,
)
from meshmodel.annotations import namespace_is_global, parse_service_annotations
from meshmodel.labels import NAMESPACE_LABEL, Label, Labels, parse_label

Obj: TypeAlias = dict[str, Any]

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MANAGED_BY_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
MESH_SLICE_CONTROLLER: Final = "endpointslice-mesh-controller.cilium.io"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
IDENTITY_OWNER_LABEL: Final = "app.kubernetes.io/managed-by"
IDENTITY_OWNER: Final = "clustermesh-apiserver"
WIREGUARD_ANNOTATION: Final = "network.cilium.io/wg-pub-key"
NODE_ADDRESS_TYPES: Final = frozenset({"InternalIP", "ExternalIP"})
ENDED_PHASES: Final = frozenset({"Succeeded", "Failed"})


def service(obj: Obj) -> ServiceIntent:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    labels = meta.get("labels") or {}
    ips = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return ServiceIntent(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta.get("uid", ""),
        annotations=parse_service_annotations(meta.get("annotations") or {}),
        cluster_ips=tuple(ip for ip in ips if ip and ip.lower() != "none"),
        ports=_ports(spec.get("ports")),
        labels=pairs(labels),
        selector=pairs(spec.get("selector")),
        headless=str(spec.get("clusterIP") or "").lower() == "none" or HEADLESS_LABEL in labels,
        external_name=spec.get("type") == "ExternalName",
        other_proxy=PROXY_NAME_LABEL in labels,
        session_affinity=spec.get("sessionAffinity") or "None",
        affinity_timeout_s=int(client_ip.get("timeoutSeconds") or 0),
    )


def endpoint_slice(obj: Obj) -> SliceIntent:
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    return SliceIntent(
        namespace=meta["namespace"],
        name=meta["name"],
        service=labels.get(SERVICE_NAME_LABEL, ""),
        address_type=obj.get("addressType", ""),
        endpoints=tuple(_endpoint(entry) for entry in obj.get("endpoints") or ()),
        ports=_ports(obj.get("ports")),
        labels=pairs(labels),
        annotations=pairs(meta.get("annotations")),
        from_mesh=labels.get(MANAGED_BY_LABEL) == MESH_SLICE_CONTROLLER,
    )


def namespace(obj: Obj) -> NamespaceIntent:
    meta = obj["metadata"]
    return NamespaceIntent(meta["name"], namespace_is_global(meta.get("annotations") or {}), pairs(meta.get("labels")))


def pod(obj: Obj) -> PodIntent:
    """A pod on the host network, or one that has ended, has no address of its own."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    ips: tuple[str, ...] = ()
    if not spec.get("hostNetwork") and status.get("phase") not in ENDED_PHASES:
        listed = [entry.get("ip", "") for entry in status.get("podIPs") or ()]
        ips = tuple(dict.fromkeys(ip for ip in listed or [status.get("podIP") or ""] if ip))
    return PodIntent(
        namespace=meta["namespace"],
        name=meta["name"],
        host_ip=status.get("hostIP") or "",
        ips=ips,
        labels=pairs(meta.get("labels")),
        service_account=spec.get("serviceAccountName") or "default",
        named_ports=_named_ports(spec),
    )


def cilium_endpoint(obj: Obj) -> tuple[EndpointIntent, ...]:
    meta, status = obj["metadata"], obj.get("status") or {}
    identity = (status.get("identity") or {}).get("id") or 0
    return (_cilium_endpoint(meta["namespace"], meta["name"], int(identity), status),)


def cilium_endpoint_slice(obj: Obj) -> tuple[EndpointIntent, ...]:
    return tuple(
        _cilium_endpoint(obj.get("namespace", ""), entry.get("name", ""), int(entry.get("id") or 0), entry)
        for entry in obj.get("endpoints") or ()
    )


def cilium_identity(obj: Obj) -> IdentityIntent | None:
    """None for an object whose name is no number or whose labels are none: nothing can be said about it."""
    meta, security = obj["metadata"], obj.get("security-labels") or {}
    name = meta["name"]
    if not (name.isascii() and name.isdigit()) or not security:
        return None
    labels = security_labels(security)
    owner = (meta.get("labels") or {}).get(IDENTITY_OWNER_LABEL)
    return IdentityIntent(int(name), labels, _pod_namespace(labels), managed=owner == IDENTITY_OWNER)


def node(obj: Obj) -> NodeIntent:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    cidrs = spec.get("podCIDRs") or [spec.get("podCIDR") or ""]
    return NodeIntent(
        name=meta["name"],
        addresses=tuple(
            (entry["type"], entry.get("address", ""))
            for entry in status.get("addresses") or ()
            if entry.get("type") in NODE_ADDRESS_TYPES
        ),
        pod_cidrs=tuple(cidr for cidr in cidrs if cidr),
        labels=pairs(meta.get("labels")),
        source="k8s",
        boot_id=(status.get("nodeInfo") or {}).get("bootID") or "",
    )


def cilium_node(obj: Obj) -> NodeIntent:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    annotations = meta.get("annotations") or {}
    return NodeIntent(
        name=meta["name"],
        addresses=tuple((entry.get("type", ""), entry.get("ip", "")) for entry in spec.get("addresses") or ()),
        pod_cidrs=tuple((spec.get("ipam") or {}).get("podCIDRs") or ()),
        labels=pairs(meta.get("labels")),
        source="custom-resource",
        annotations=pairs(annotations),
        health_ips=_both(spec.get("health")),
        ingress_ips=_both(spec.get("ingress")),
        encryption_key=int((spec.get("encryption") or {}).get("key") or 0),
        node_identity=int(spec.get("nodeidentity") or 0),
        wireguard_key=annotations.get(WIREGUARD_ANNOTATION, ""),
        boot_id=spec.get("bootid") or "",
    )


def service_export(obj: Obj) -> ExportIntent:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    return ExportIntent(
        meta["namespace"],
        meta["name"],
        meta.get("creationTimestamp") or "",
        pairs(spec.get("exportedLabels")),
        pairs(spec.get("exportedAnnotations")),
    )


def security_labels(security: Mapping[str, str]) -> Labels:
    """The labels of a CiliumIdentity, whose keys hold source and key, sorted by key without source."""
    labels = (parse_label(f"{name}={value}") for name, value in security.items())
    return tuple(sorted(labels, key=lambda label: (label.key, label.source)))


def pairs(mapping: Mapping[str, str] | None) -> Pairs:
    return tuple(sorted(mapping.items())) if mapping else ()


def _named_ports(spec: Obj) -> tuple[tuple[str, int, str], ...]:
    found = {
        (str(port["name"]), int(port["containerPort"]), str(port.get("protocol") or "TCP").upper())
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name") and port.get("containerPort")
    }
    return tuple(sorted(found))


def _pod_namespace(labels: Iterable[Label]) -> str | None:
    return next((label.value for label in labels if label.key == NAMESPACE_LABEL and label.source == "k8s"), None)


def _ports(entries: Iterable[Obj] | None) -> tuple[Port, ...]:
    return tuple(
        Port(
            name=entry.get("name") or "",
            protocol=entry.get("protocol") or "TCP",
            port=int(entry["port"]),
            app_protocol=entry.get("appProtocol") or "",
        )
        for entry in entries or ()
        if entry.get("port")
    )


def _endpoint(entry: Obj) -> Endpoint:
    conditions = entry.get("conditions") or {}
    hints = (entry.get("hints") or {}).get("forZones") or ()
    return Endpoint(
        addresses=tuple(entry.get("addresses") or ()),
        ready=conditions.get("ready"),
        serving=conditions.get("serving"),
        terminating=conditions.get("terminating"),
        hostname=entry.get("hostname") or "",
        node_name=entry.get("nodeName") or "",
        zone=entry.get("zone") or "",
        for_zones=tuple(hint.get("name", "") for hint in hints),
    )


def _cilium_endpoint(namespace: str, name: str, identity: int, status: Obj) -> EndpointIntent:
    networking = status.get("networking") or {}
    addressing = networking.get("addressing") or ()
    listed = [pair.get(family) for pair in addressing for family in ("ipv4", "ipv6")]
    return EndpointIntent(
        namespace=namespace,
        name=name,
        host_ip=networking.get("node") or "",
        ips=tuple(dict.fromkeys(ip for ip in listed if ip)),
        identity=identity,
        encryption_key=int((status.get("encryption") or {}).get("key") or 0),
        service_account=status.get("service-account") or "",
    )


def _both(addresses: Mapping[str, str] | None) -> tuple[str, str]:
    return ((addresses or {}).get("ipv4") or "", (addresses or {}).get("ipv6") or "")
