# SPDX-License-Identifier: Apache-2.0
"""CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity → rows. Pure. Source: cilium.io/v2 and v2alpha1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kubeintent import fields
from kubeintent.pod import read_named_ports
from kubeintent.read import Obj, Read, UnreadableError, bounded, name_of
from kubeintent.rows import EndpointIntent, IdentityIntent
from meshapi.installed import APISERVER
from meshmodel.errors import ModelError
from meshmodel.labels import NAMESPACE_LABEL, Label, Labels, parse_label

IDENTITY_OWNER_LABEL: Final = "app.kubernetes.io/managed-by"
IDENTITY_OWNER: Final = APISERVER


def read_cilium_endpoint(obj: Obj) -> Read[tuple[EndpointIntent, ...]]:
    """The endpoint, alone. Raises: UnreadableError."""
    name = name_of(obj)
    problems: list[str] = []
    status = fields.mapping(obj, "status", problems)
    identity = fields.number(fields.mapping(status, "identity", problems), "id", 0, fields.MAX_IDENTITY, problems)
    row = _endpoint(name.namespace, name.name, identity, status, problems)
    return Read((row,) if row is not None else (), bounded(problems), name.uid)


def read_cilium_endpoint_slice(obj: Obj) -> Read[tuple[EndpointIntent, ...]]:
    """Every endpoint of the slice that has a name; all are of the slice's namespace. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    namespace = obj.get("namespace")
    if not isinstance(namespace, str) or not namespace:
        raise UnreadableError(f"{name.name[:64]} names no namespace for its endpoints")
    problems: list[str] = []
    rows: list[EndpointIntent] = []
    for entry in fields.objects(obj, "endpoints", problems):
        endpoint_name = fields.text(entry, "name", problems)
        if not endpoint_name:
            problems.append("endpoints: an endpoint has no name")
            continue
        identity = fields.number(entry, "id", 0, fields.MAX_IDENTITY, problems)
        row = _endpoint(namespace, endpoint_name, identity, entry, problems)
        if row is not None:
            rows.append(row)
    return Read(tuple(rows), bounded(problems), name.uid)


def read_cilium_identity(obj: Obj) -> Read[IdentityIntent]:
    """The identity; no row for one whose name is no number or that has no labels, or one that is no text: a set with a
    label less would be another identity. Raises: UnreadableError.
    """
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    if not (name.name.isascii() and name.name.isdigit() and len(name.name) <= len(str(fields.MAX_IDENTITY))):
        return Read(None, (f"the name {fields.shown(name.name)} is no identity number",), name.uid)
    security = fields.mapping(obj, "security-labels", problems)
    if not security:
        return Read(None, bounded(problems), name.uid)
    labels = security_labels(security)
    if labels is None:
        return Read(None, ("security-labels: a label is not understood",), name.uid)
    owner = dict(fields.pairs(obj["metadata"], "labels", problems)).get(IDENTITY_OWNER_LABEL)
    row = IdentityIntent(int(name.name), labels, _pod_namespace(labels), managed=owner == IDENTITY_OWNER)
    return Read(row, bounded(problems), name.uid)


def security_labels(security: Obj) -> Labels | None:
    """The labels of a CiliumIdentity, whose keys hold source and key, sorted by key without source; None if one is bad."""
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in security.items()):
        return None
    try:
        labels = [parse_label(f"{name}={value}") for name, value in security.items()]
    except ModelError:
        return None
    return tuple(sorted(labels, key=lambda label: (label.key, label.source)))


def _endpoint(namespace: str, name: str, identity: int | None, status: Obj, problems: list[str]) -> EndpointIntent:
    networking = fields.mapping(status, "networking", problems)
    listed: list[object] = []
    for pair in fields.objects(networking, "addressing", problems):
        listed += (pair.get("ipv4"), pair.get("ipv6"))
    key = 0
    if status.get("encryption") is not None:
        key = fields.number(fields.mapping(status, "encryption", problems), "key", 0, 255, problems) or 0
    return EndpointIntent(
        namespace=namespace,
        name=name,
        host_ip=fields.address(networking.get("node"), "networking.node", problems) or "",
        ips=fields.addresses(listed, "networking.addressing", problems),
        identity=identity or 0,
        encryption_key=key,
        service_account=fields.text(status, "service-account", problems),
        named_ports=_named_ports(status, problems),
    )


def _named_ports(status: Obj, problems: list[str]) -> tuple[tuple[str, int, str], ...]:
    if status.get("named-ports") is None:
        return ()
    return tuple(sorted(read_named_ports(status, "named-ports", "port", problems)))


def _pod_namespace(labels: Iterable[Label]) -> str | None:
    return next((label.value for label in labels if label.key == NAMESPACE_LABEL and label.source == "k8s"), None)
