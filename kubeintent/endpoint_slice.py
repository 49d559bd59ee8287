# SPDX-License-Identifier: Apache-2.0
"""EndpointSlice → row. Pure. Source: discovery/v1 and its validation; an address that no API server takes is left out."""

from __future__ import annotations

from typing import Final

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import SliceEndpointIntent, SliceIntent
from kubeintent.service import read_ports
from meshmodel.endpointslice import SERVICE_NAME_LABEL

MANAGED_BY_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
MESH_CONTROLLERS: Final = frozenset(
    {"endpointslice-mesh-controller.cilium.io", "endpointslice-mesh-controller.clustermesh.io"}
)
"""Who mirrors a peer's slices into this cluster: read back, a peer's backends would look like ours."""
ADDRESS_TYPES: Final = frozenset({"IPv4", "IPv6", "FQDN"})
CONDITIONS: Final = ("ready", "serving", "terminating")
TEXTS: Final = ("hostname", "nodeName", "zone")


def read_endpoint_slice(obj: Obj) -> Read[SliceIntent]:
    """The slice; one of host names has no endpoints here. Raises: UnreadableError."""
    name = name_of(obj)
    problems: list[str] = []
    meta = obj["metadata"]
    labels = fields.pairs(meta, "labels", problems)
    by_name = dict(labels)
    family = fields.choice(obj, "addressType", ADDRESS_TYPES, "", problems) or ""
    endpoints = fields.objects(obj, "endpoints", problems) if family in ("IPv4", "IPv6") else ()
    row = SliceIntent(
        namespace=name.namespace,
        name=name.name,
        service=by_name.get(SERVICE_NAME_LABEL, ""),
        address_type=family,
        endpoints=tuple(_endpoint(entry, family, problems) for entry in endpoints),
        ports=read_ports(obj, problems, may_be_all=True),
        labels=labels,
        annotations=fields.pairs(meta, "annotations", problems),
        from_mesh=by_name.get(MANAGED_BY_LABEL) in MESH_CONTROLLERS,
    )
    return Read(row, bounded(problems), name.uid)


def _endpoint(entry: Obj, family: str, problems: list[str]) -> SliceEndpointIntent:
    ready, serving, terminating = fields.flags(fields.mapping(entry, "conditions", problems), CONDITIONS, problems)
    hostname, node_name, zone = fields.texts(entry, TEXTS, problems)
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    if entry.get("hints") is not None:
        hints = fields.mapping(entry, "hints", problems)
        zones, nodes = _names(hints, "forZones", problems), _names(hints, "forNodes", problems)
    addresses = _addresses(entry, family, problems)
    target = entry.get("targetRef")
    is_pod = isinstance(target, dict) and target.get("kind") == "Pod"
    return SliceEndpointIntent(addresses, ready, serving, terminating, hostname, node_name, zone, zones, is_pod, nodes)


def _names(hints: Obj, part: str, problems: list[str]) -> tuple[str, ...]:
    if hints.get(part) is None:
        return ()
    listed = fields.objects(hints, part, problems)
    return tuple(name for hint in listed if (name := fields.text(hint, "name", problems, f"hints.{part}")))


def _addresses(entry: Obj, family: str, problems: list[str]) -> tuple[str, ...]:
    listed = fields.entries(entry, "addresses", problems)
    if len(listed) == 1:  # as every controller writes them
        only = fields.address(listed[0], "endpoint address", problems, special=False)
        found: tuple[str, ...] = (only,) if only is not None else ()
    else:
        found = fields.addresses(listed, "endpoint address", problems, special=False)
    wanted = ":" if family == "IPv6" else "."
    foreign = [ip for ip in found if wanted not in ip]
    if not foreign:
        return found
    problems.extend(f"endpoint address: {ip} is not {family}" for ip in foreign)
    return tuple(ip for ip in found if wanted in ip)
