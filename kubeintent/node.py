# SPDX-License-Identifier: Apache-2.0
"""Node, CiliumNode and Calico's IPAMBlock → rows. Pure. Source: core/v1; cilium.io/v2; crd.projectcalico.org/v1."""

from __future__ import annotations

from typing import Any, Final

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import BlockIntent, NodeIntent

WIREGUARD_ANNOTATION: Final = "network.cilium.io/wg-pub-key"
NODE_ADDRESS_TYPES: Final = ("InternalIP", "ExternalIP")


def read_node(obj: Obj) -> Read[NodeIntent]:
    """The node as Kubernetes knows it. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    spec, status = fields.mapping(obj, "spec", problems), fields.mapping(obj, "status", problems)
    cidrs = fields.entries(spec, "podCIDRs", problems) or [spec.get("podCIDR")]
    listed = [
        (kind, entry.get("address"))
        for entry in fields.objects(status, "addresses", problems)
        if (kind := entry.get("type")) in NODE_ADDRESS_TYPES
    ]
    row = NodeIntent(
        name=name.name,
        addresses=_addresses(listed, "status.addresses", problems),
        pod_cidrs=fields.prefixes(cidrs, "spec.podCIDRs", problems),
        labels=fields.pairs(obj["metadata"], "labels", problems),
        source="k8s",
        boot_id=fields.text(fields.mapping(status, "nodeInfo", problems), "bootID", problems),
        is_ready=any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in fields.objects(status, "conditions", problems)
        ),
        created=fields.text(obj["metadata"], "creationTimestamp", problems),
    )
    return Read(row, bounded(problems), name.uid)


def read_cilium_node(obj: Obj) -> Read[NodeIntent]:
    """The node as Cilium knows it, with the networks of every pool that it was given. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    meta, spec = obj["metadata"], fields.mapping(obj, "spec", problems)
    annotations = fields.pairs(meta, "annotations", problems)
    listed = [
        (fields.text(entry, "type", problems), entry.get("ip")) for entry in fields.objects(spec, "addresses", problems)
    ]
    row = NodeIntent(
        name=name.name,
        addresses=_addresses(listed, "spec.addresses", problems),
        pod_cidrs=_cilium_networks(spec, problems),
        labels=fields.pairs(meta, "labels", problems),
        source="custom-resource",
        annotations=annotations,
        health_ips=_both(spec, "health", problems),
        ingress_ips=_both(spec, "ingress", problems),
        encryption_key=fields.number(fields.mapping(spec, "encryption", problems), "key", 0, 255, problems) or 0,
        node_identity=fields.number(spec, "nodeidentity", 0, fields.MAX_IDENTITY, problems) or 0,
        wireguard_key=dict(annotations).get(WIREGUARD_ANNOTATION, ""),
        boot_id=fields.text(spec, "bootid", problems),
    )
    return Read(row, bounded(problems), name.uid)


def read_calico_block(obj: Obj) -> Read[BlockIntent]:
    """The block; no row for one that is of no node, or on its way out. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    spec = fields.mapping(obj, "spec", problems)
    kind, _, node = fields.text(spec, "affinity", problems).partition(":")
    cidrs = fields.prefixes([spec.get("cidr")], "spec.cidr", problems)
    is_of_node = kind == "host" and bool(node) and bool(cidrs) and not fields.flag(spec, "deleted", problems)
    return Read(BlockIntent(cidrs[0], node) if is_of_node else None, bounded(problems), name.uid)


def _cilium_networks(spec: Obj, problems: list[str]) -> tuple[str, ...]:
    """The node's own networks first, then those of its pools in the order in which they stand there."""
    ipam = fields.mapping(spec, "ipam", problems)
    listed = list(fields.entries(ipam, "podCIDRs", problems))
    for pool in fields.objects(fields.mapping(ipam, "pools", problems), "allocated", problems):
        listed += fields.entries(pool, "cidrs", problems)
    return fields.prefixes(listed, "spec.ipam", problems)


def _addresses(listed: list[tuple[Any, object]], where: str, problems: list[str]) -> tuple[tuple[str, str], ...]:
    found = ((str(kind), fields.address(value, where, problems)) for kind, value in listed)
    return tuple((kind, ip) for kind, ip in found if ip is not None)


def _both(spec: Obj, name: str, problems: list[str]) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of a part of the node; empty where there is none."""
    pair = fields.mapping(spec, name, problems)
    found = []
    for family in ("ipv4", "ipv6"):
        ip = fields.address(pair.get(family), f"spec.{name}.{family}", problems) or ""
        if ip and (":" in ip) != (family == "ipv6"):
            problems.append(f"spec.{name}.{family}: {ip} is of another family")
            ip = ""
        found.append(ip)
    return found[0], found[1]
