# SPDX-License-Identifier: Apache-2.0
"""Questions to other nodes' overlays, and what came back. Source of the format: bpf/probe.h.

A question is VXLAN made here and sent from a socket: its path, its port and its size are those of the pods' packets, and
the answer comes back through the other node's programs and ours. A full question forbids fragments, so that a path with
a smaller MTU than the pods were told drops it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from agent.datapath.address import pack4
from agent.datapath.flow_layout import ProbeKey, ProbeSize, ProbeValue
from agent.datapath.maps import Map

OVERLAY_PROBE_PORT: Final = 9879
_ASKING_PORT: Final = 1
_REMOTE_NODE: Final = 6
_ROUND_BITS: Final = 16
_SMALL_PAYLOAD: Final = 16
_IP_HEADER, _UDP_HEADER = 20, 8
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_VXLAN: Final = struct.pack("!II", 0x08 << 24, _REMOTE_NODE << 8)
_ETHERNET: Final = bytes.fromhex("020000000002020000000001") + b"\x08\x00"


class Overlay(Protocol):
    """Asks nodes by their underlay addresses; the kernel's, or a test's."""

    def ask(self, nodes: Iterable[str], round_number: int) -> None:
        """A small and a full question are on their way to every node; one that cannot be sent counts as lost."""
        ...

    def answers(self, round_number: int) -> Mapping[str, Mapping[ProbeSize, float]]:
        """Which sizes of this round's questions each node answered, and after how many seconds."""
        ...

    def known(self) -> frozenset[str]:
        """Nodes that ever answered while the map existed, also an earlier agent."""
        ...

    def forget(self, nodes: Iterable[str]) -> None:
        """These nodes count as never heard."""
        ...


class OverlayProbe:
    """The overlay of this node. `mtu` is the overlay device's, `mark` the skb mark of our own encapsulation."""

    def __init__(
        self, node_address: str, vxlan_port: int, mark: int, mtu: int, answers: Map[ProbeKey, ProbeValue]
    ) -> None:
        self.address, self._port, self._mark, self._mtu, self._answers = node_address, vxlan_port, mark, mtu, answers
        self._asked_ns: dict[tuple[str, ProbeSize], int] = {}
        self._secret = random.SystemRandom().getrandbits(64 - _ROUND_BITS)
        self._socket = _asking_socket(node_address, mark)

    def fit(self, node_address: str, mtu: int) -> None:
        """Questions come from this address of the node, full ones as large as the overlay device now lets packets be.

        Raises: OSError when no device has the address; then the former one is used on.
        """
        self._mtu = mtu
        if node_address != self.address:
            fresh = _asking_socket(node_address, self._mark)
            self._socket.close()
            self.address, self._socket = node_address, fresh

    def close(self) -> None:
        """Give back the socket."""
        self._socket.close()

    def ask(self, nodes: Iterable[str], round_number: int) -> None:
        """A small and a full question are on their way to every node; one that cannot be sent counts as lost."""
        nonce = self._nonce(round_number)
        self._asked_ns = {}
        for node in nodes:
            for size in ProbeSize:
                self._asked_ns[node, size] = time.monotonic_ns()  # the clock of `answered_ns`
                with contextlib.suppress(OSError):  # no route, no room, larger than the device: no answer will come
                    question = question_bytes(self.address, node, nonce, size, self._mtu)
                    self._socket.sendto(_VXLAN + question, (node, self._port))

    def answers(self, round_number: int) -> Mapping[str, Mapping[ProbeSize, float]]:
        """Which sizes of this round's questions each node answered, and after how many seconds."""
        nonce = self._nonce(round_number)
        found: dict[str, dict[ProbeSize, float]] = {}
        for key, value in self._answers.items():
            if value.nonce == nonce and (asked_ns := self._asked_ns.get((key.node, key.size))) is not None:
                found.setdefault(key.node, {})[key.size] = max(value.answered_ns - asked_ns, 0) / 1e9
        return found

    def known(self) -> frozenset[str]:
        """Nodes that ever answered while the map existed, also an earlier agent."""
        return frozenset(key.node for key, _ in self._answers.items())

    def forget(self, nodes: Iterable[str]) -> None:
        """These nodes count as never heard."""
        self._answers.delete([ProbeKey(node, size) for node in nodes for size in ProbeSize])

    def _nonce(self, round_number: int) -> int:
        return self._secret << _ROUND_BITS | round_number & ((1 << _ROUND_BITS) - 1)


def _asking_socket(node_address: str, mark: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        made.bind((node_address, 0))
    except OSError:
        made.close()
        raise
    return made


def question_bytes(source: str, destination: str, nonce: int, size: ProbeSize, mtu: int) -> bytes:
    """One question as a frame inside VXLAN: `struct probe` in a UDP datagram between the two nodes' addresses."""
    payload = _SMALL_PAYLOAD if size is ProbeSize.SMALL else mtu - _IP_HEADER - _UDP_HEADER
    length = _IP_HEADER + _UDP_HEADER + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, pack4(source), pack4(destination))
    checksum = _checksum(head)
    head = head[:10] + checksum.to_bytes(2, "big") + head[12:]
    udp = struct.pack("!HHHH", _ASKING_PORT, OVERLAY_PROBE_PORT, _UDP_HEADER + payload, 0)
    return _ETHERNET + head + udp + struct.pack("<QII", nonce, size, 0).ljust(payload, b"\0")


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
