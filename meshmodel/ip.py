# SPDX-License-Identifier: Apache-2.0
"""Which identity an address has, and which node it is behind. Source: docs/wire.md, IP to identity."""

from __future__ import annotations

from sys import intern
from typing import Annotated, Final

import msgspec

from meshmodel.address import PROTOCOLS, canonical_ip, canonical_prefix, is_ipv4, join_prefix, mask_of
from meshmodel.errors import RecordError
from meshmodel.identity import FIRST_ALLOCATED, IdentityRange, NumericIdentity, Reserved
from meshmodel.wire import JsonReader, encode_json


class NamedPort(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="pascal"):
    """A container port with a name; the protocol is upper-case text."""

    name: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    protocol: str = ""


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=False):
    ip: str = msgspec.field(default="", name="IP")
    mask: str | None = msgspec.field(default=None, name="Mask")
    host_ip: str = msgspec.field(default="", name="HostIP")
    identity: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = msgspec.field(default=0, name="ID")
    key: Annotated[int, msgspec.Meta(ge=0, le=255)] = msgspec.field(default=0, name="Key")
    metadata: str = msgspec.field(default="", name="Metadata")
    namespace: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="K8sNamespace")
    pod: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="K8sPodName")
    service_account: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="K8sServiceAccount")
    named_ports: list[NamedPort] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="NamedPorts")
    pod_uid: str | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="K8sPodUID")


class IpRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One address (or network) of a cluster.

    Shape: `prefix` is canonical and always has a length; `host_ip` is the tunnel endpoint, "" when there is none;
    `identity` 0 means that the cluster does not know it yet; `encryption_key` 0 means not encrypted. `pod_uid` is in private
    records only: agents name the pods by it that they enforce.
    """

    prefix: str
    identity: NumericIdentity
    host_ip: str = ""
    encryption_key: int = 0
    metadata: str = ""
    namespace: str = ""
    pod: str = ""
    service_account: str = ""
    named_ports: tuple[NamedPort, ...] = ()
    pod_uid: str = ""

    @property
    def ip(self) -> str:
        """The address without the length."""
        return self.prefix.partition("/")[0]

    @property
    def is_host(self) -> bool:
        """One address, not a network."""
        return self.prefix.endswith("/128" if ":" in self.prefix else "/32")

    @property
    def key_suffix(self) -> str:
        """Under which name the record is stored: the address, or the network with its length."""
        return self.ip if self.is_host else self.prefix

    def encode(self) -> bytes:
        """The bytes of the record, like Cilium's own."""
        unset = msgspec.UNSET
        return encode_json(
            _Wire(
                ip=self.ip,
                mask=None if self.is_host else mask_of(self.prefix),
                host_ip=self.host_ip,
                identity=self.identity,
                key=self.encryption_key,
                metadata=self.metadata,
                namespace=self.namespace or unset,
                pod=self.pod or unset,
                service_account=self.service_account or unset,
                named_ports=sorted(self.named_ports, key=lambda p: p.name) or unset,
                pod_uid=self.pod_uid or unset,
            )
        )


_reader: Final = JsonReader(_Wire, 128 * 1024)
MAXIMUM_NAMED_PORTS: Final = 1024


def decode(key_suffix: str, value: bytes, *, identities: IdentityRange) -> IpRecord:
    """The record stored under this address by the cluster that owns these identities.

    A peer's "host" is a remote node to us; named ports that cannot be used are left out. Raises: RecordError: bad-json,
    bad-field, too-large, bad-address, key-mismatch (the key is not the record's address, or address/length), out-of-range.
    """
    wire = _reader.read(key_suffix, value)
    identity = wire.identity
    if not (identity < FIRST_ALLOCATED or identities.first <= identity <= identities.last):
        raise RecordError(key_suffix, "out-of-range", f"identity {identity} is not in {identities}")
    if identity == Reserved.HOST:
        identity = int(Reserved.REMOTE_NODE)
    try:
        address = wire.ip if is_ipv4(wire.ip) else canonical_ip(wire.ip)
        prefix, written = _prefix(address, wire.mask)
        host_ip = wire.host_ip if not wire.host_ip or is_ipv4(wire.host_ip) else canonical_ip(wire.host_ip)
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-address", str(exc)) from None
    if key_suffix != written:
        raise RecordError(key_suffix, "key-mismatch", f"holds {written}")
    return IpRecord(
        prefix=prefix,
        identity=NumericIdentity(identity),
        # the same few texts in very many records: kept once
        host_ip=intern(host_ip),
        encryption_key=wire.key,
        metadata=wire.metadata,
        namespace=intern(wire.namespace or ""),
        pod=wire.pod or "",
        service_account=intern(wire.service_account or ""),
        named_ports=_named_ports(key_suffix, wire.named_ports) if wire.named_ports else (),
        pod_uid=wire.pod_uid or "",
    )


def decode_key(key_suffix: str) -> str:
    """The prefix a key names: for deletions, which come without a record.

    Raises: RecordError: bad-address; key-mismatch for a spelling under which no record is taken.
    """
    try:
        prefix = canonical_prefix(key_suffix)
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-address", str(exc)) from None
    if key_suffix not in (prefix, prefix.partition("/")[0]):
        raise RecordError(key_suffix, "key-mismatch", f"is {prefix} in another spelling")
    return prefix


def _prefix(address: str, mask: str | None) -> tuple[str, str]:
    """The network of a record, and the key it must stand under. Raises: ValueError for host bits and other masks."""
    if mask is None:
        return f"{address}/{128 if ':' in address else 32}", address
    prefix = join_prefix(address, mask)
    if prefix.partition("/")[0] != address:
        raise ValueError(f"{address} has bits outside of its mask")
    return prefix, prefix


def _named_ports(key_suffix: str, found: list[NamedPort]) -> tuple[NamedPort, ...]:
    if len(found) > MAXIMUM_NAMED_PORTS:
        raise RecordError(key_suffix, "too-large", f"{len(found)} named ports")
    usual = (port if port.protocol in PROTOCOLS else _upper_case(port) for port in found)
    return tuple(port for port in usual if port.name and port.port and port.protocol in PROTOCOLS)


def _upper_case(port: NamedPort) -> NamedPort:
    return NamedPort(name=port.name, port=port.port, protocol=port.protocol.upper())
