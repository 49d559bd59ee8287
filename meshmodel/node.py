# SPDX-License-Identifier: Apache-2.0
"""A node as its cluster publishes it. Source: docs/wire.md, node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from meshmodel.address import canonical_ip, canonical_prefix, has_prefix_mask, join_prefix, mask_of
from meshmodel.errors import RecordError
from meshmodel.names import ClusterId, ClusterName
from meshmodel.wire import JsonReader, encode_json

INTERNAL_IP: Final = "InternalIP"
EXTERNAL_IP: Final = "ExternalIP"
CILIUM_INTERNAL_IP: Final = "CiliumInternalIP"
SOURCE: Final = "custom-resource"


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    """An address of a node and its kind: InternalIP, ExternalIP, CiliumInternalIP, or one we do not know."""

    kind: str
    ip: str


class _Address(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    type: str = ""
    ip: str = msgspec.field(default="", name="IP")


class _Cidr(msgspec.Struct, forbid_unknown_fields=True):
    ip: str = msgspec.field(default="", name="IP")
    mask: str | None = msgspec.field(default=None, name="Mask")


Uint8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    name: str = msgspec.field(default="", name="Name")
    cluster: str = msgspec.field(default="", name="Cluster")
    addresses: list[_Address] | None = msgspec.field(default=None, name="IPAddresses")
    ipv4: _Cidr | str | None = msgspec.field(default=None, name="IPv4AllocCIDR")
    ipv4_more: list[_Cidr | str | None] | None = msgspec.field(default=None, name="IPv4SecondaryAllocCIDRs")
    ipv6: _Cidr | str | None = msgspec.field(default=None, name="IPv6AllocCIDR")
    ipv6_more: list[_Cidr | str | None] | None = msgspec.field(default=None, name="IPv6SecondaryAllocCIDRs")
    ipv4_health: str | None = msgspec.field(default="", name="IPv4HealthIP")
    ipv6_health: str | None = msgspec.field(default="", name="IPv6HealthIP")
    ipv4_ingress: str | None = msgspec.field(default="", name="IPv4IngressIP")
    ipv6_ingress: str | None = msgspec.field(default="", name="IPv6IngressIP")
    cluster_id: Uint32 = msgspec.field(default=0, name="ClusterID")
    source: str = msgspec.field(default="", name="Source")
    encryption_key: Uint8 = msgspec.field(default=0, name="EncryptionKey")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")
    annotations: dict[str, str] | None = msgspec.field(default=None, name="Annotations")
    node_identity: Uint32 = msgspec.field(default=0, name="NodeIdentity")
    wireguard_key: str = msgspec.field(default="", name="WireguardPubKey")
    boot_id: str = msgspec.field(default="", name="BootID")


class MeshNode(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node with its addresses and the pod networks behind it.

    Shape: addresses and prefixes are canonical text, "" or empty when unset; the first pod network of a family is the
    primary one; `wireguard_key` is base64.
    """

    cluster: ClusterName
    cluster_id: ClusterId
    name: str
    addresses: tuple[NodeAddress, ...] = ()
    ipv4_pod_cidrs: tuple[str, ...] = ()
    ipv6_pod_cidrs: tuple[str, ...] = ()
    ipv4_health_ip: str = ""
    ipv6_health_ip: str = ""
    ipv4_ingress_ip: str = ""
    ipv6_ingress_ip: str = ""
    source: str = SOURCE
    encryption_key: int = 0
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    node_identity: int = 0
    wireguard_key: str = ""
    boot_id: str = ""

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return self.ipv4_pod_cidrs + self.ipv6_pod_cidrs

    def encode(self) -> bytes:
        """The bytes of the record, like Cilium's own: networks as objects, nothing as null."""
        return encode_json(
            _Wire(
                name=self.name,
                cluster=self.cluster,
                addresses=[_Address(a.kind, a.ip) for a in self.addresses] or None,
                ipv4=_cidr(self.ipv4_pod_cidrs),
                ipv4_more=_more_cidrs(self.ipv4_pod_cidrs),
                ipv6=_cidr(self.ipv6_pod_cidrs),
                ipv6_more=_more_cidrs(self.ipv6_pod_cidrs),
                ipv4_health=self.ipv4_health_ip,
                ipv6_health=self.ipv6_health_ip,
                ipv4_ingress=self.ipv4_ingress_ip,
                ipv6_ingress=self.ipv6_ingress_ip,
                cluster_id=self.cluster_id,
                source=self.source,
                encryption_key=self.encryption_key,
                labels=dict(self.labels) or None,
                annotations=dict(self.annotations) or None,
                node_identity=self.node_identity,
                wireguard_key=self.wireguard_key,
                boot_id=self.boot_id,
            )
        )


_reader: Final = JsonReader(_Wire, 1024 * 1024)
MAXIMUM_ADDRESSES: Final = 1024
MAXIMUM_NETWORKS: Final = 4096
MAXIMUM_LABELS: Final = 4096


def decode(key_suffix: str, value: bytes, *, cluster: str, cluster_id: int) -> MeshNode:
    """The record stored under the node's name by this cluster.

    Addresses that are not given and networks whose mask has holes are left out; the family of a network is its own,
    whatever field it came in. Raises: RecordError: bad-json, bad-field, too-large, key-mismatch, cluster-mismatch,
    id-mismatch, bad-address.
    """
    wire = _reader.read(key_suffix, value)
    if not wire.name or wire.name != key_suffix:
        raise RecordError(key_suffix, "key-mismatch", f"holds node {wire.name!r}")
    if wire.cluster != cluster:
        raise RecordError(key_suffix, "cluster-mismatch", f"holds a node of {wire.cluster!r}, not of {cluster!r}")
    if wire.cluster_id != cluster_id:
        raise RecordError(key_suffix, "id-mismatch", f"cluster id {wire.cluster_id}, expected {cluster_id}")
    if max(len(wire.labels or ()), len(wire.annotations or ())) > MAXIMUM_LABELS:
        raise RecordError(key_suffix, "too-large", f"more than {MAXIMUM_LABELS} labels or annotations")
    networks = len(wire.ipv4_more or ()) + len(wire.ipv6_more or ())
    if len(wire.addresses or ()) > MAXIMUM_ADDRESSES or networks > MAXIMUM_NETWORKS:
        raise RecordError(
            key_suffix, "too-large", f"more than {MAXIMUM_ADDRESSES} addresses or {MAXIMUM_NETWORKS} networks"
        )
    try:
        return _node(wire)
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-address", str(exc)) from None


def _node(wire: _Wire) -> MeshNode:
    found = (wire.ipv4, *(wire.ipv4_more or ()), wire.ipv6, *(wire.ipv6_more or ()))
    networks = [network for cidr in found if cidr and (network := _prefix(cidr))]
    return MeshNode(
        cluster=ClusterName(wire.cluster),
        cluster_id=ClusterId(wire.cluster_id),
        name=wire.name,
        addresses=tuple(NodeAddress(a.type, canonical_ip(a.ip)) for a in wire.addresses or () if a.ip),
        ipv4_pod_cidrs=tuple(network for network in networks if ":" not in network),
        ipv6_pod_cidrs=tuple(network for network in networks if ":" in network),
        ipv4_health_ip=_optional_ip(wire.ipv4_health),
        ipv6_health_ip=_optional_ip(wire.ipv6_health),
        ipv4_ingress_ip=_optional_ip(wire.ipv4_ingress),
        ipv6_ingress_ip=_optional_ip(wire.ipv6_ingress),
        source=wire.source,
        encryption_key=wire.encryption_key,
        labels=wire.labels or {},
        annotations=wire.annotations or {},
        node_identity=wire.node_identity,
        wireguard_key=wire.wireguard_key,
        boot_id=wire.boot_id,
    )


def _optional_ip(text: str | None) -> str:
    return canonical_ip(text) if text else ""


def _prefix(cidr: _Cidr | str) -> str:
    """The network, "" if its mask is none. Raises: ValueError for what is no address or no base64."""
    if isinstance(cidr, str):
        return canonical_prefix(cidr)
    address = _optional_ip(cidr.ip)
    if not address or not has_prefix_mask(address, cidr.mask or ""):
        return ""
    return join_prefix(address, cidr.mask or "")


def _cidr(prefixes: tuple[str, ...]) -> _Cidr | None:
    return _cidr_of(prefixes[0]) if prefixes else None


def _more_cidrs(prefixes: tuple[str, ...]) -> list[_Cidr | str | None] | None:
    return [_cidr_of(prefix) for prefix in prefixes[1:]] or None


def _cidr_of(prefix: str) -> _Cidr:
    network = canonical_prefix(prefix)
    return _Cidr(network.partition("/")[0], mask_of(network))
