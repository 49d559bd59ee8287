# SPDX-License-Identifier: Apache-2.0
"""Pod and Namespace → rows. Pure. Source: core/v1."""

from __future__ import annotations

from typing import Final

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import NamespaceIntent, PodIntent
from meshmodel.annotations import namespace_is_global

ENDED_PHASES: Final = ("Succeeded", "Failed")


def read_namespace(obj: Obj, *, default_global: bool = True) -> Read[NamespaceIntent]:
    """The namespace; `default_global` decides where its annotation says nothing. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    meta = obj["metadata"]
    annotations = dict(fields.pairs(meta, "annotations", problems))
    is_global = namespace_is_global(annotations, default_global)
    row = NamespaceIntent(name.name, is_global, fields.pairs(meta, "labels", problems))
    return Read(row, bounded(problems), name.uid)


def read_pod(obj: Obj) -> Read[PodIntent]:
    """The pod; one on the host network, or one that has ended, has no address of its own. Raises: UnreadableError."""
    name = name_of(obj)
    problems: list[str] = []
    spec, status = fields.mapping(obj, "spec", problems), fields.mapping(obj, "status", problems)
    ips: tuple[str, ...] = ()
    uses_host_network = bool(fields.flag(spec, "hostNetwork", problems))
    if not uses_host_network and status.get("phase") not in ENDED_PHASES:
        listed = [entry.get("ip") for entry in fields.objects(status, "podIPs", problems)]
        ips = fields.addresses(listed or [status.get("podIP")], "status.podIPs", problems)
    row = PodIntent(
        namespace=name.namespace,
        name=name.name,
        host_ip=fields.address(status.get("hostIP"), "status.hostIP", problems) or "",
        ips=ips,
        labels=fields.pairs(obj["metadata"], "labels", problems),
        service_account=fields.text(spec, "serviceAccountName", problems) or "default",
        named_ports=_named_ports(spec, problems),
        node=fields.text(spec, "nodeName", problems),
        uses_host_network=uses_host_network,
        uid=name.uid,
    )
    return Read(row, bounded(problems), name.uid)


def read_named_ports(owner: Obj, name: str, number: str, problems: list[str]) -> frozenset[tuple[str, int, str]]:
    """Ports that have a name, as (name, number, protocol); `name` is the list's field, `number` that of its numbers."""
    found: set[tuple[str, int, str]] = set()
    for port in fields.objects(owner, name, problems):
        port_name = fields.text(port, "name", problems, "port name")
        port_number = fields.number(port, number, 1, 65535, problems)
        protocol = fields.choice(port, "protocol", fields.PROTOCOLS, "TCP", problems)
        if port_name and port_number and protocol:
            found.add((port_name, port_number, protocol))
    return frozenset(found)


def _named_ports(spec: Obj, problems: list[str]) -> tuple[tuple[str, int, str], ...]:
    found: set[tuple[str, int, str]] = set()
    for container in fields.objects(spec, "containers", problems):
        if container.get("ports") is not None:
            found |= read_named_ports(container, "ports", "containerPort", problems)
    return tuple(sorted(found))
