# SPDX-License-Identifier: Apache-2.0
"""Datagrams in packets that no honest sender makes: headers before headers, fragments that overlap or lie, wrong lengths, and
bytes behind the end.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from random import Random
from typing import Final

from tests.packet.packet_bytes import UDP, Packet, checksum
from tests.packet.packet_bytes6 import Packet6

_HOP_OPTIONS, _ROUTING, _FRAGMENT, _NOTHING, _OPTIONS = 0, 43, 44, 59, 60
_IDS: Final = range(1, 5)
_OFFSETS: Final = (0, 0, 8, 8, 16, 24)
_SIZES: Final = (8, 16, 24, 1000)
_SOURCE_PORT: Final = 40_000

Header = tuple[int, bytes]
"""Its number, and its bytes but for the number of the next one."""


class OddPackets:
    """From one address to another of the same family. The datagrams are for these ports; pieces of several share their ids.

    Where there is room for anything else, it looks like the head of a datagram for the first port.
    """

    def __init__(self, draw: Random, source: str, destination: str, ports: Sequence[int]) -> None:
        kind = Packet6 if ":" in source else Packet
        facts = (source, destination, UDP, _SOURCE_PORT)
        made = [kind(*facts, port, payload=b"y" * size) for port in ports for size in (0, 8, 16)]
        self._filling = struct.pack("!HH", _SOURCE_PORT, ports[0]) * 8
        self._draw, self._datagrams = draw, [packet.transport() for packet in made]
        self._addresses = b"".join(ipaddress.ip_address(address).packed for address in (source, destination))
        self._make = self._ipv6 if ":" in source else self._ipv4

    def bundle(self) -> list[bytes]:
        """One to three packets from the network header on, in the order in which they are sent."""
        body, number = self._draw.choice(self._datagrams), self._draw.choice(_IDS)
        return [self._make(self._body(body), number) for _ in range(self._draw.choice((1, 2, 2, 3)))]

    def _is(self, share: float) -> bool:
        return self._draw.random() < share

    def _body(self, wanted: bytes) -> bytes:
        return wanted if self._is(0.6) else self._draw.choice(self._datagrams)

    def _piece(self, whole: bytes) -> tuple[int, int, bytes]:
        """Offset, whether more follow, and the bytes: in their place, or those of another."""
        offset, more, size = self._draw.choice(_OFFSETS), self._draw.choice((0, 1)), self._draw.choice(_SIZES)
        place = offset if self._is(0.8) else 0
        return offset, more, whole[place : place + size] or self._filling[:8]

    def _length(self, right: int, *others: int) -> int:
        return right if self._is(0.6) else max(0, self._draw.choice((0, right - 8, right - 4, right + 8, *others)))

    def _behind(self) -> bytes:
        return b"" if self._is(0.6) else self._draw.choice((self._filling, *self._datagrams))

    def _ipv4(self, body: bytes, number: int) -> bytes:
        offset, more, piece = self._piece(body)
        options = b"" if self._is(0.7) else self._draw.choice((b"\x01" * 4, b"\x01\x01" + self._filling[2:4]))
        header = 20 + len(options)
        length = self._length(header + len(piece), header, 28)
        place = (offset >> 3) | (0x2000 if more else 0)
        head = (
            struct.pack("!BBHHHBBH", 0x40 | header // 4, 0, length, number, place, 64, UDP, 0)
            + self._addresses
            + options
        )
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + piece + self._behind()

    def _ipv6(self, body: bytes, number: int) -> bytes:
        before, within = [self._header() for _ in range(self._draw.choice((0, 0, 0, 1, 1, 2)))], []
        piece, last = body, UDP
        if self._is(0.2):
            within.append((_OPTIONS, self._options()))
        if self._is(0.8):
            last, headers = _chain(within, UDP)
            offset, more, piece = self._piece(headers + body)
            before.append((_FRAGMENT, struct.pack("!BHI", 0, offset | more, number)))
            if self._is(0.1):
                before.append((_FRAGMENT, struct.pack("!BHI", 0, self._draw.choice((0, 8)) | more, number)))
            if self._is(0.2):
                last = self._draw.choice((UDP, _OPTIONS, _FRAGMENT, _NOTHING))
        else:
            before += within
        first, headers = _chain(before, last)
        rest = headers + piece
        length = self._length(len(rest), len(headers), 8)
        return struct.pack("!IHBB", 6 << 28, length, first, 64) + self._addresses + rest + self._behind()

    def _header(self) -> Header:
        if self._is(0.3):
            return _ROUTING, bytes([0, self._draw.choice((0, 2, 3, 4)), self._draw.choice((0, 0, 0, 1))]) + bytes(4)
        return self._draw.choice((_OPTIONS, _OPTIONS, _HOP_OPTIONS)), self._options()

    def _options(self) -> bytes:
        size = self._draw.choice((0, 0, 1, 2))
        return bytes([size, 0x1E, 4 + 8 * size]) + self._filling[: 4 + 8 * size]


def _chain(headers: Sequence[Header], last: int) -> tuple[int, bytes]:
    """The first number, and the headers with those of the next ones."""
    numbers = [*(number for number, _ in headers), last]
    return numbers[0], b"".join(bytes([numbers[i + 1]]) + raw for i, (_, raw) in enumerate(headers))
