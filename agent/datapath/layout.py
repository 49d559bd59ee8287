# SPDX-License-Identifier: Apache-2.0
"""Map records, one NamedTuple each, packed exactly as the structs of bpf/abi.h.

Addresses are text, ports are in host order (stored big-endian), protocols are IP protocol numbers (0 = any where a
wildcard is allowed). Keys of services and values of backends are of the family of their address: the structs of IPv6 have
the same names with a 6. Every pad is explicit; tests/integration/datapath compares them with the object's BTF.
A number that does not fit its field raises ValueError.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, Self

from agent.datapath.address import (
    ANY_ADDRESS,
    FAMILY_IPV4,
    FAMILY_IPV6,
    family_of,
    pack4,
    pack16,
    pack_mac,
    unpack4,
    unpack16,
    unpack_mac,
)

LOOPBACK_ADDRESS: Final = "169.254.42.1"
TICK_NS: Final = 1 << 30
_IPCACHE_BASE_BITS: Final = 32
_POLICY_PEER_BITS: Final = 64
_POLICY_PROTOCOL_BITS: Final = 80
_PORT_BITS: Final = 16
POLICY_L4_BITS_OFFSET: Final = 3


class Direction(IntEnum):
    """As seen by the endpoint."""

    EGRESS = 0
    INGRESS = 1


class BackendState(IntEnum):
    """Only ACTIVE is chosen for new connections; every other state keeps the connections it has.

    TERMINATING: its pod is going. MAINTENANCE: its address is known, but no frontend wants it.
    """

    ACTIVE = 0
    TERMINATING = 1
    QUARANTINED = 2
    MAINTENANCE = 3


class ServiceFlag(IntFlag):
    """Flags of slot 0."""

    AFFINITY = 1
    OF_NODE = 2
    OF_OUTSIDERS = 4
    SOURCE_RANGES = 8


class ServiceAlgorithm(IntEnum):
    """How a connection finds its slot, in slot 0: by chance, or by its addresses and ports (see `draw` in bpf/lb.h)."""

    RANDOM = 0
    MAGLEV = 1


class EndpointFlag(IntFlag):
    """A direction without its flag is allowed without a policy lookup; WATCH_*: with verdict records nevertheless.

    BRIDGE_PORT: frames for other MACs pass here too.
    """

    ENFORCE_INGRESS = 1
    ENFORCE_EGRESS = 2
    BRIDGE_PORT = 4
    WATCH_INGRESS = 8
    WATCH_EGRESS = 16


def _pack(form: struct.Struct, *values: object) -> bytes:
    try:
        return form.pack(*values)
    except struct.error as exc:
        raise ValueError(f"{values!r} does not fit {form.format!r}: {exc}") from exc


def _port_be(port: int) -> bytes:
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port {port} is not in 0..65535")
    return port.to_bytes(2, "big")


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


_SERVICE_KEY = struct.Struct("<4s2sHBBH")
_SERVICE_KEY6 = struct.Struct("<16s2sHBBH")
_SERVICE_VALUE = struct.Struct("<IIHBB")
_U32 = struct.Struct("<I")
_BACKEND_VALUE = struct.Struct("<4s2sBBHBB")
_BACKEND_VALUE6 = struct.Struct("<16s2sBBHBB")
_MEMBER_KEY = struct.Struct("<II")
_IPCACHE_KEY = struct.Struct("<IHBB16s")
_IPCACHE_VALUE = struct.Struct("<I16sBBH")
_POLICY_KEY = struct.Struct("<IHBBIBB2s")
_POLICY_VALUE = struct.Struct("<2sBBII")
_ENDPOINT_VALUE = struct.Struct("<IHHII6s6s16s")


class ServiceKey(NamedTuple):
    """`struct service_key`: slot 0 is the frontend itself, slots 1..count are its backends."""

    address: str
    port: int
    protocol: int
    slot: int = 0

    def pack(self) -> bytes:
        """12 bytes, or 24."""
        rest = (_port_be(self.port), self.slot, self.protocol, 0, 0)
        if family_of(self.address) == FAMILY_IPV6:
            return _pack(_SERVICE_KEY6, pack16(self.address), *rest)
        return _pack(_SERVICE_KEY, pack4(self.address), *rest)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        if len(raw) == _SERVICE_KEY6.size:
            address, port, slot, protocol, _, _ = _SERVICE_KEY6.unpack(raw)
            return cls(unpack16(address, FAMILY_IPV6), _port(port), protocol, slot)
        address, port, slot, protocol, _, _ = _SERVICE_KEY.unpack(raw)
        return cls(unpack4(address), _port(port), protocol, slot)


class ServiceValue(NamedTuple):
    """`struct service_value`: in slot 0 backend_id holds the affinity timeout in seconds and count the slots."""

    backend_id: int
    service_id: int
    count: int = 0  # type: ignore[assignment]  # the C field's name; tuple.count is not used on records
    flags: int = 0
    algorithm: int = 0

    def pack(self) -> bytes:
        """12 bytes."""
        return _pack(_SERVICE_VALUE, *self)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_SERVICE_VALUE.unpack(raw))


class BackendKey(NamedTuple):
    """A backend's id, chosen by user space; 0 is never used."""

    id: int

    def pack(self) -> bytes:
        """4 bytes."""
        return _pack(_U32, self.id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_U32.unpack(raw))


class BackendValue(NamedTuple):
    """`struct backend_value`: where a slot leads."""

    address: str
    port: int
    protocol: int
    state: int = BackendState.ACTIVE
    cluster_id: int = 0

    def pack(self) -> bytes:
        """12 bytes, or 24."""
        rest = (_port_be(self.port), self.protocol, self.state, self.cluster_id, 0, 0)
        if family_of(self.address) == FAMILY_IPV6:
            return _pack(_BACKEND_VALUE6, pack16(self.address), *rest)
        return _pack(_BACKEND_VALUE, pack4(self.address), *rest)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        if len(raw) == _BACKEND_VALUE6.size:
            address, port, protocol, state, cluster_id, _, _ = _BACKEND_VALUE6.unpack(raw)
            return cls(unpack16(address, FAMILY_IPV6), _port(port), protocol, state, cluster_id)
        address, port, protocol, state, cluster_id, _, _ = _BACKEND_VALUE.unpack(raw)
        return cls(unpack4(address), _port(port), protocol, state, cluster_id)


class MemberKey(NamedTuple):
    """`struct member_key`: present while the backend may be chosen for the service (affinity, reused ports)."""

    service_id: int
    backend_id: int

    def pack(self) -> bytes:
        """8 bytes."""
        return _pack(_MEMBER_KEY, self.service_id, self.backend_id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_MEMBER_KEY.unpack(raw))


class MemberValue(NamedTuple):
    """Only its presence counts."""

    present: int = 1

    def pack(self) -> bytes:
        """4 bytes."""
        return _pack(_U32, self.present)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_U32.unpack(raw))


class IpcacheKey(NamedTuple):
    """`struct ipcache_key`, longest prefix match: "10.2.1.4/32"; a plain address means all its bits."""

    prefix: str

    def pack(self) -> bytes:
        """24 bytes; the prefix must not have bits beyond its length."""
        address, _, length = self.prefix.partition("/")
        raw = pack16(address)
        family = family_of(address)
        width = 32 if family == FAMILY_IPV4 else 128
        bits = int(length) if length else width
        number = int.from_bytes(raw, "big")
        if not 0 <= bits <= width or number & ((1 << (128 - bits)) - 1):
            raise ValueError(f"not a prefix: {self.prefix!r}")
        return _pack(_IPCACHE_KEY, _IPCACHE_BASE_BITS + bits, 0, 0, family, raw)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        bits, _, _, family, address = _IPCACHE_KEY.unpack(raw)
        return cls(f"{unpack16(address, family)}/{bits - _IPCACHE_BASE_BITS}")


class IpcacheValue(NamedTuple):
    """`struct ipcache_value`: identity 0 = known address whose identity has not arrived; tunnel 0.0.0.0 = none."""

    identity: int
    tunnel: str = ANY_ADDRESS
    cluster_id: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """24 bytes."""
        return _pack(_IPCACHE_VALUE, self.identity, pack16(self.tunnel), self.flags, 0, self.cluster_id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        identity, tunnel, flags, _, cluster_id = _IPCACHE_VALUE.unpack(raw)
        return cls(identity, unpack16(tunnel), cluster_id, flags)


class PolicyKey(NamedTuple):
    """`struct policy_key`, longest prefix match; protocol 0 = any (then port and port_bits are 0).

    For ICMP the port is the ICMP type. port_bits is the number of leading bits of the port that count.
    """

    endpoint_id: int
    direction: int
    identity: int
    protocol: int = 0
    port: int = 0
    port_bits: int = 0

    @property
    def l4_bits(self) -> int:
        """0 any protocol, 8 a protocol, 9..24 a protocol and a port prefix."""
        return 8 + self.port_bits if self.protocol else 0

    def pack(self) -> bytes:
        """16 bytes."""
        unused = (1 << (_PORT_BITS - self.port_bits)) - 1 if 0 <= self.port_bits <= _PORT_BITS else 0
        if not 0 <= self.port_bits <= _PORT_BITS or self.port & unused or (self.port_bits and not self.protocol):
            raise ValueError(f"not a port prefix: {self!r}")
        bits = _POLICY_PROTOCOL_BITS + self.port_bits if self.protocol else _POLICY_PEER_BITS
        port = _port_be(self.port)
        return _pack(_POLICY_KEY, bits, self.endpoint_id, self.direction, 0, self.identity, self.protocol, 0, port)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        bits, endpoint_id, direction, _, identity, protocol, _, port = _POLICY_KEY.unpack(raw)
        return cls(endpoint_id, direction, identity, protocol, _port(port), max(0, bits - _POLICY_PROTOCOL_BITS))


class PolicyValue(NamedTuple):
    """`struct policy_value`: the higher precedence of two hits wins. Nobody at the proxy port: a drop."""

    deny: bool
    precedence: int
    rule_id: int = 0
    proxy_port: int = 0

    def pack(self) -> bytes:
        """12 bytes."""
        return _pack(_POLICY_VALUE, _port_be(self.proxy_port), self.deny, 0, self.precedence, self.rule_id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        proxy_port, deny, _, precedence, rule_id = _POLICY_VALUE.unpack(raw)
        return cls(bool(deny), precedence, rule_id, _port(proxy_port))


class AddressKey(NamedTuple):
    """16 bytes: an endpoint's address."""

    address: str

    def pack(self) -> bytes:
        """16 bytes."""
        return pack16(self.address)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(unpack16(raw))


class IfindexKey(NamedTuple):
    """The node-side interface of an endpoint."""

    ifindex: int

    def pack(self) -> bytes:
        """4 bytes."""
        return _pack(_U32, self.ifindex)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_U32.unpack(raw))


class EndpointValue(NamedTuple):
    """`struct endpoint_value`: bump policy_revision with every change of its policy entries, flags or identity."""

    ifindex: int
    endpoint_id: int
    flags: int
    identity: int
    policy_revision: int
    mac: str
    node_mac: str
    address: str

    def pack(self) -> bytes:
        """44 bytes."""
        macs = (pack_mac(self.mac), pack_mac(self.node_mac))
        numbers = (self.ifindex, self.endpoint_id, self.flags, self.identity, self.policy_revision)
        return _pack(_ENDPOINT_VALUE, *numbers, *macs, pack16(self.address))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        ifindex, endpoint_id, flags, identity, revision, mac, node_mac, address = _ENDPOINT_VALUE.unpack(raw)
        macs = (unpack_mac(mac), unpack_mac(node_mac))
        return cls(ifindex, endpoint_id, flags, identity, revision, *macs, unpack16(address))
