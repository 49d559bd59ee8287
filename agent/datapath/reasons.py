# SPDX-License-Identifier: Apache-2.0
"""Why a packet was dropped or where it was sent, by number.

Source: Cilium's numbers where they exist (bpf/abi.h has the same list); 240 and above are ours. Texts of drops are those of
flows.words.
"""

from __future__ import annotations

from enum import IntEnum

from flows.words import DROP_TEXTS


class Reason(IntEnum):
    """Metric and event reasons: from 128 on a packet was dropped, below it was forwarded.

    FLOW_* count flows beside their packets; many more opened than established is a flood.
    """

    TO_ENDPOINT = 0
    TO_OVERLAY = 1
    TO_STACK = 2
    UNKNOWN_PROTOCOL_PASSED = 3
    FLOW_OPENED = 4
    FLOW_ESTABLISHED = 5
    FLOW_UNATTENDED = 6
    FLOW_OF_NODE = 7
    FLOW_OF_OUTSIDERS = 8
    TO_PROXY = 9
    INVALID_SOURCE_MAC = 130
    INVALID_SOURCE_IP = 132
    POLICY_DENIED = 133
    INVALID_PACKET = 134
    FRAGMENTATION_NEEDED = 136
    UNSUPPORTED_L3 = 139
    WRITE_ERROR = 141
    NO_TUNNEL_KEY = 147
    UNROUTABLE = 151
    CONNTRACK_FULL = 155
    INVALID_IPV6_EXTENSION = 156
    NO_BACKEND = 158
    NO_CONFIGURATION = 165
    UNSUPPORTED_L2 = 166
    NAT_FULL = 167
    ENCAPSULATION_PROHIBITED = 170
    INVALID_IDENTITY = 171
    UNKNOWN_SENDER = 172
    FIRST_FRAGMENT_MISSING = 175
    NOT_IN_SOURCE_RANGE = 177
    NO_PROXY_SOCKET = 178
    PROXY_SOCKET_NOT_ASSIGNED = 179
    PROXY_UNSUPPORTED = 180
    POLICY_DENY_RULE = 181
    INVALID_CLUSTER_ID = 192
    TTL_EXCEEDED = 196
    UNKNOWN_IDENTITY = 240
    UNRELATED_ICMP_ERROR = 241
    NOT_BY_TUNNEL = 242
    FOREIGN_SOURCE = 243

    @property
    def dropped(self) -> bool:
        """True for reasons that end a packet's way."""
        return self >= 128

    @property
    def text(self) -> str:
        """The words people search for; Cilium's where the number is Cilium's."""
        return _TEXTS.get(self) or DROP_TEXTS[self]


_TEXTS = {  # of what is not dropped
    Reason.TO_ENDPOINT: "Forwarded to endpoint",
    Reason.TO_OVERLAY: "Forwarded to overlay",
    Reason.TO_STACK: "Forwarded to stack",
    Reason.UNKNOWN_PROTOCOL_PASSED: "Passed unjudged to stack",
    Reason.FLOW_OPENED: "Flow opened",
    Reason.FLOW_ESTABLISHED: "Flow established",
    Reason.FLOW_UNATTENDED: "Flow left to the stack while no agent ran",
    Reason.FLOW_OF_NODE: "Connection of the node led to a backend",
    Reason.FLOW_OF_OUTSIDERS: "Connection from outside led to another cluster",
    Reason.TO_PROXY: "Forwarded to proxy",
}
