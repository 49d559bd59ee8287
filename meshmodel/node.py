# SPDX-License-Identifier: Apache-2.0
"""A node of a cluster (K6). Source: spec of the wire format, 2.2, and what was observed, 4.5. Field names are capitalised there."""

from __future__ import annotations

from typing import Final

import msgspec

from meshmodel.address import decode_prefix, encode_mask, parse_address, parse_prefix
from meshmodel.errors import ModelError, RecordError
from meshmodel.limits import decode_json

INTERNAL_IP: Final = "InternalIP"
EXTERNAL_IP: Final = "ExternalIP"
CILIUM_INTERNAL_IP: Final = "CiliumInternalIP"


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    kind: str = msgspec.field(name="Type", default=INTERNAL_IP)
    ip: str = msgspec.field(name="IP", default="")


class NodeCidr(msgspec.Struct, frozen=True, gc=False):
    """A prefix as network text and base64 mask."""

    ip: str = msgspec.field(name="IP", default="")
    mask: str = msgspec.field(name="Mask", default="")

    @property
    def prefix(self) -> str:
        """Raises ModelError."""
        return decode_prefix(self.ip, self.mask)


class MeshNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node: its addresses, and the prefixes its pods are numbered from."""

    name: str = msgspec.field(name="Name", default="")
    cluster: str = msgspec.field(name="Cluster", default="")
    addresses: list[NodeAddress] | None = msgspec.field(name="IPAddresses", default=None)
    ipv4_cidr: NodeCidr | str | None = msgspec.field(name="IPv4AllocCIDR", default=None)
    ipv4_secondary_cidrs: list[NodeCidr | str] | None = msgspec.field(name="IPv4SecondaryAllocCIDRs", default=None)
    ipv6_cidr: NodeCidr | str | None = msgspec.field(name="IPv6AllocCIDR", default=None)
    ipv6_secondary_cidrs: list[NodeCidr | str] | None = msgspec.field(name="IPv6SecondaryAllocCIDRs", default=None)
    ipv4_health_ip: str | None = msgspec.field(name="IPv4HealthIP", default="")
    ipv6_health_ip: str | None = msgspec.field(name="IPv6HealthIP", default="")
    ipv4_ingress_ip: str | None = msgspec.field(name="IPv4IngressIP", default="")
    ipv6_ingress_ip: str | None = msgspec.field(name="IPv6IngressIP", default="")
    cluster_id: int = msgspec.field(name="ClusterID", default=0)
    source: str = msgspec.field(name="Source", default="custom-resource")
    encryption_key: int = msgspec.field(name="EncryptionKey", default=0)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    annotations: dict[str, str] | None = msgspec.field(name="Annotations", default=None)
    node_identity: int = msgspec.field(name="NodeIdentity", default=0)
    wireguard_public_key: str = msgspec.field(name="WireguardPubKey", default="")
    boot_id: str = msgspec.field(name="BootID", default="")

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """Every prefix its pods are numbered from, primary first. Raises ModelError."""
        first = [self.ipv4_cidr, *(self.ipv4_secondary_cidrs or ())]
        cidrs = [*first, self.ipv6_cidr, *(self.ipv6_secondary_cidrs or ())]
        return tuple(c.prefix if isinstance(c, NodeCidr) else parse_prefix(c) for c in cidrs if c)

    def address(self, kind: str = INTERNAL_IP) -> str | None:
        """Its first IPv4 address of that kind, else its first of any family."""
        found = [a.ip for a in self.addresses or () if a.kind == kind]
        return next((ip for ip in found if ":" not in ip), found[0] if found else None)

    def encode(self) -> bytes:
        """Bytes as the anchor writes them; maps sorted, empty lists and maps `null`."""
        document = msgspec.to_builtins(self, order="deterministic")
        ordered = {field.encode_name: document[field.encode_name] for field in msgspec.structs.fields(self)}
        for name, value in ordered.items():
            if value in ([], {}):
                ordered[name] = None
            elif isinstance(value, dict) and name in ("Labels", "Annotations"):
                ordered[name] = dict(sorted(value.items()))
        return msgspec.json.encode(ordered)


_DECODER: Final = msgspec.json.Decoder(MeshNode)


def make_cidr(prefix: str) -> NodeCidr:
    """From text; host bits are masked off. Raises ModelError."""
    network = parse_prefix(prefix)
    return NodeCidr(network.partition("/")[0], encode_mask(network))


def decode(key: str, value: bytes, *, cluster: str, cluster_id: int) -> MeshNode:
    """The node stored under `key`, as published by `cluster`.

    Raises RecordError: bad-json, wrong-type, too-large, key-mismatch, cluster-mismatch, id-mismatch, bad-address.
    """
    node = decode_json(_DECODER, key, value)
    if not node.name or node.name != key:
        raise RecordError(key, "key-mismatch", f"holds node {node.name!r}")
    if node.cluster != cluster:
        raise RecordError(key, "cluster-mismatch", f"says it is of {node.cluster!r}, came from {cluster}")
    if node.cluster_id != cluster_id:
        raise RecordError(key, "id-mismatch", f"says cluster id {node.cluster_id}, {cluster} has {cluster_id}")
    try:
        for entry in node.addresses or ():
            parse_address(entry.ip)
        _ = node.pod_cidrs
    except ModelError as exc:
        raise RecordError(key, "bad-address", str(exc)) from exc
    return node
