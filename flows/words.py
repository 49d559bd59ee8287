# SPDX-License-Identifier: Apache-2.0
"""The words for the numbers of a flow. Pure.

Source: Hubble's printer and Cilium's texts; 240 and above are reasons of our own datapath.
"""

from __future__ import annotations

from typing import Final

from flows.proto import flow_pb2 as pb

DROP: Final = 1
TRACE: Final = 4
POLICY_VERDICT: Final = 5
TRACE_SOCK: Final = 7
ACCESS_LOG: Final = 129
EVENT_TYPES: Final = {
    "drop": DROP, "debug": 2, "capture": 3, "trace": TRACE, "policy-verdict": POLICY_VERDICT, "recorder": 6,
    "trace-sock": TRACE_SOCK, "l7": ACCESS_LOG, "agent": 130,
}  # fmt: skip
"""`event_type.type` by the name that `--type` takes."""

TRACE_POINTS: Final = (
    "to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay", "from-endpoint", "from-proxy", "from-host",
    "from-stack", "from-overlay", "from-network", "to-network", "from-crypto", "to-crypto",
)  # fmt: skip
"""By `event_type.sub_type` of a trace."""

SOCKET_POINTS: Final = ("unknown", "pre-xlate-fwd", "post-xlate-fwd", "pre-xlate-rev", "post-xlate-rev")
MATCHES: Final = ("none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only")
RESERVED: Final = (
    "unknown", "host", "world", "unmanaged", "health", "init", "remote-node", "kube-apiserver", "ingress", "world-ipv4",
    "world-ipv6",
)  # fmt: skip
"""Identities that mean the same everywhere, by number."""

DROP_TEXTS: Final = {
    130: "Invalid source mac",
    131: "Invalid destination mac",
    132: "Invalid source ip",
    133: "Policy denied",
    134: "Invalid packet",
    135: "CT: Truncated or invalid header",
    136: "Fragmentation needed",
    137: "CT: Unknown L4 protocol",
    138: "CT: Can't create entry from packet",
    139: "Unsupported L3 protocol",
    140: "Missed tail call",
    141: "Error writing to packet",
    142: "Unknown L4 protocol",
    143: "Unknown ICMPv4 code",
    144: "Unknown ICMPv4 type",
    145: "Unknown ICMPv6 code",
    146: "Unknown ICMPv6 type",
    147: "Error retrieving tunnel key",
    148: "Error retrieving tunnel options",
    149: "Invalid Geneve option",
    150: "Unknown L3 target address",
    151: "Stale or unroutable IP",
    152: "No matching local container found",
    153: "Error while correcting L3 checksum",
    154: "Error while correcting L4 checksum",
    155: "CT: Map insertion failed",
    156: "Invalid IPv6 extension header",
    157: "IP fragmentation not supported",
    158: "Service backend not found",
    160: "No tunnel/encapsulation endpoint (datapath BUG!)",
    161: "NAT 46/64 not enabled",
    162: "Reached EDT rate-limiting drop horizon",
    163: "Unknown connection tracking state",
    164: "Local host is unreachable",
    165: "No configuration available to perform policy decision",
    166: "Unsupported L2 protocol",
    167: "No mapping for NAT masquerade",
    168: "Unsupported protocol for NAT masquerade",
    169: "FIB lookup failed",
    170: "Encapsulation traffic is prohibited",
    171: "Invalid identity",
    172: "Unknown sender",
    173: "NAT not needed",
    174: "Is a ClusterIP",
    175: "First logical datagram fragment not found",
    176: "Forbidden ICMPv6 message",
    177: "Denied by LB src range check",
    178: "Socket lookup failed",
    179: "Socket assign failed",
    180: "Proxy redirection not supported for protocol",
    181: "Policy denied by denylist",
    182: "VLAN traffic disallowed by VLAN filter",
    183: "Incorrect VNI from VTEP",
    184: "Failed to update or lookup TC buffer",
    185: "No SID was found for the IP address",
    186: "SRv6 state was removed during tail call",
    187: "L3 translation from IPv4 to IPv6 failed (NAT46)",
    188: "L3 translation from IPv6 to IPv4 failed (NAT64)",
    189: "Authentication required",
    190: "No conntrack map found",
    191: "No nat map found",
    192: "Invalid ClusterID",
    193: "Unsupported packet protocol for DSR encapsulation",
    194: "No egress gateway found",
    195: "Traffic is unencrypted",
    196: "TTL exceeded",
    197: "No node ID found",
    198: "Rate limited",
    199: "IGMP handled",
    200: "IGMP subscribed",
    201: "Multicast handled",
    202: "Host datapath not ready",
    203: "Endpoint policy program not available",
    204: "No Egress IP configured",
    205: "Punt to proxy",
    240: "Identity of the peer is not known yet",
    241: "ICMP error matches no connection",
    242: "Source is behind a tunnel and came without it",
    243: "Source does not belong to the cluster of the sending node",
}


def drop_text(reason: int) -> str:
    """Why a packet was dropped, or its number where there is no text for it."""
    return DROP_TEXTS.get(reason) or str(reason)


def identity_text(identity: int) -> str:
    """`world`, or `ID:16946`."""
    return RESERVED[identity] if identity < len(RESERVED) else f"ID:{identity}"


def type_text(flow: pb.Flow) -> str:
    """The TYPE column: where it was seen, why it was dropped, how it was judged, or which message of which protocol."""
    match flow.event_type.type:
        case _ if flow.HasField("l7"):
            return _message_text(flow.l7)
        case 4:
            point = flow.event_type.sub_type
            return TRACE_POINTS[point] if 0 <= point < len(TRACE_POINTS) else str(point)
        case 1:
            return drop_text(flow.event_type.sub_type)
        case 5:
            match = flow.policy_match_type
            name = MATCHES[match] if match < len(MATCHES) else str(match)
            return f"policy-verdict:{name} {pb.TrafficDirection.Name(flow.traffic_direction)}"
        case 7:
            point = flow.sock_xlate_point
            return SOCKET_POINTS[point] if 0 <= point < len(SOCKET_POINTS) else str(point)
    return "UNKNOWN"


def _message_text(l7: pb.Layer7) -> str:
    way = {pb.REQUEST: "request", pb.RESPONSE: "response", pb.SAMPLE: "sample"}.get(l7.type, "unknown")
    match l7.WhichOneof("record"):
        case "http":
            return f"http-{way}"
        case "dns":
            return f"dns-{way} {l7.dns.observation_source}".rstrip()
    return f"unknown-{way}"


def verdict_text(flow: pb.Flow) -> str:
    """The VERDICT column."""
    if flow.event_type.type == POLICY_VERDICT:
        match flow.verdict:
            case pb.FORWARDED | pb.REDIRECTED:
                return "ALLOWED"
            case pb.DROPPED | pb.ERROR:
                return "DENIED"
            case pb.AUDIT:
                return "AUDITED"
    return pb.Verdict.Name(flow.verdict) if flow.verdict in pb.Verdict.values() else str(flow.verdict)


def qualified_name(cluster: str, node: str) -> str:
    """A node as flows and peers name it: `cluster/node`, or bare in a cluster called default."""
    return node if cluster in ("", "default") else f"{cluster}/{node}"


def uuid_prefix(random: bytes) -> str:
    """The first 24 characters of the version 4 UUIDs of one observer, of 10 random bytes; a number of 12 digits follows."""
    text = random.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[12:15]}-8{text[15:18]}-"
