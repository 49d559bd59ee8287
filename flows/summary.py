# SPDX-License-Identifier: Apache-2.0
"""The words in the parentheses at the end of a flow's line. Pure. Source: Hubble's parsers."""

from __future__ import annotations

from typing import Final

from flows.proto import flow_pb2 as pb

_FLAGS: Final = (
    ("SYN", 2), ("ACK", 16), ("RST", 4), ("FIN", 1), ("PSH", 8), ("URG", 32), ("ECE", 64), ("CWR", 128), ("NS", 256),
)  # fmt: skip
_ICMP4: Final = {
    0: "EchoReply", 3: "DestinationUnreachable", 4: "SourceQuench", 5: "Redirect", 8: "EchoRequest",
    9: "RouterAdvertisement", 10: "RouterSolicitation", 11: "TimeExceeded", 12: "ParameterProblem",
    13: "TimestampRequest", 14: "TimestampReply",
}  # fmt: skip
_ICMP4_CODES: Final = {
    3: ("Net", "Host", "Protocol", "Port", "FragmentationNeeded", "SourceRoutingFailed", "NetUnknown", "HostUnknown",
        "SourceIsolated", "NetAdminProhibited", "HostAdminProhibited", "NetTOS", "HostTOS", "CommAdminProhibited",
        "HostPrecedence", "PrecedenceCutoff"),
    11: ("TTLExceeded", "FragmentReassemblyTimeExceeded"),
}  # fmt: skip
_ICMP6: Final = {
    1: "DestinationUnreachable", 2: "PacketTooBig", 3: "TimeExceeded", 4: "ParameterProblem", 128: "EchoRequest",
    129: "EchoReply", 133: "RouterSolicitation", 134: "RouterAdvertisement", 135: "NeighborSolicitation",
    136: "NeighborAdvertisement",
}  # fmt: skip
_RCODES: Final = {
    1: "Format Error", 2: "Server Failure", 3: "Non-Existent Domain", 4: "Not Implemented", 5: "Query Refused",
    6: "Name Exists when it should not", 7: "RR Set Exists when it should not", 8: "RR Set that should exist does not",
    9: "Server Not Authoritative for zone", 10: "Name not contained in zone",
}  # fmt: skip


def flags_summary(flags: int) -> str:
    """`TCP Flags: SYN, ACK` of the flags as the TCP header has them."""
    return "TCP Flags: " + ", ".join(name for name, bit in _FLAGS if flags & bit)


def icmp_summary(kind: int, code: int, *, version: int = 4) -> str:
    """`ICMPv4 DestinationUnreachable(Port)`; a type without a name by its number."""
    name = (_ICMP4 if version == 4 else _ICMP6).get(kind, str(kind))
    codes = _ICMP4_CODES.get(kind, ()) if version == 4 else ()
    return f"ICMPv{version} {name}" + (f"({codes[code]})" if code < len(codes) and kind == 3 else "")


def summarise(flow: pb.Flow) -> str:
    """The summary of a flow from its own fields: of the message where it has one, else of the transport's header."""
    if flow.HasField("l7"):
        return message_summary(flow.l7)
    name, l4 = flow.l4.WhichOneof("protocol"), flow.l4
    if flow.Type == pb.SOCK:
        return name if name in ("TCP", "UDP") else "Unknown"
    match name:
        case "TCP":
            return flags_summary(tcp_bits(l4.TCP.flags))
        case "ICMPv4":
            return icmp_summary(l4.ICMPv4.type, l4.ICMPv4.code)
        case "ICMPv6":
            return icmp_summary(l4.ICMPv6.type, l4.ICMPv6.code, version=6)
    return name or "Unknown"


def tcp_bits(flags: pb.TCPFlags) -> int:
    """The flags as a TCP header has them."""
    return sum(bit for name, bit in _FLAGS if getattr(flags, name))


def tcp_flags(bits: int) -> pb.TCPFlags:
    """Inverse of tcp_bits."""
    flags = pb.TCPFlags()
    for name, bit in _FLAGS:
        if bits & bit:
            setattr(flags, name, True)
    return flags


def message_summary(l7: pb.Layer7) -> str:
    """`HTTP/1.1 200 2ms (GET http://host/path)`, `DNS Query github.com. A` and their like."""
    match l7.WhichOneof("record"):
        case "http":
            return _http(l7.http, l7.latency_ns, is_request=l7.type == pb.REQUEST)
        case "dns":
            return _dns(l7.dns, is_request=l7.type == pb.REQUEST)
    return ""


def _http(http: pb.HTTP, latency_ns: int, *, is_request: bool) -> str:
    if is_request:
        return f"{http.protocol} {http.method} {http.url}"
    return f"{http.protocol} {http.code} {latency_ns // 1_000_000}ms ({http.method} {http.url})"


def _dns(dns: pb.DNS, *, is_request: bool) -> str:
    types = ",".join(dns.qtypes)
    if is_request:
        return f"DNS Query {dns.query} {types}"
    source = f"({dns.observation_source.capitalize()} {dns.query} {types})"
    if dns.rcode:
        return f"DNS Answer RCode: {_RCODES.get(dns.rcode, str(dns.rcode))} {source}"
    parts = [f'"{",".join(dns.ips)}"'] if dns.ips else []
    parts += [f'CNAMEs: "{",".join(dns.cnames)}"'] if dns.cnames else []
    parts.append(f"TTL: {dns.ttl}")
    return " ".join(["DNS Answer", *parts, source])
