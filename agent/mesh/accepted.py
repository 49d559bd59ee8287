# SPDX-License-Identifier: Apache-2.0
"""What one cluster was believed to have, at some time: so that a claim of somebody else finds out cheaply whom it concerns. Pure.

It is coarse, and grows with what is told, also with what is taken back at once. Whoever owns the rows has it counted anew
from them when it has become large.
"""

from __future__ import annotations

from typing import Final

from agent.mesh.blocks import Block, BlockIndex

NEIGHBOURHOOD: Final = {4: 24, 6: 64}
MOST: Final = 65_536
"""Neighbourhoods and networks that are remembered before they are counted anew."""


class Accepted:
    """`clear` has neighbourhoods (/24, /64) all of which may be claimed, and some of which was: "10.2.0" by its text too."""

    def __init__(self) -> None:
        self.clear: dict[str | Block, Block] = {}
        self._networks: BlockIndex[None] = BlockIndex()
        self._limit = MOST

    def note(self, block: Block) -> None:
        """It was accepted outside of a clear neighbourhood."""
        self._networks.add(block, None)

    def overlaps(self, block: Block) -> bool:
        """Whether something in this network, no part of which is clear, was ever accepted: false is certain."""
        return any(True for _ in self._networks.overlapping(block))

    def end_clear(self) -> None:
        """Every address is judged by itself from now on."""
        for around in self.clear.values():
            self.note(around)
        self.clear.clear()

    def unclear(self, block: Block) -> None:
        """Addresses in the neighbourhood of what another cluster claims are judged one by one from now on."""
        names: list[str | Block]
        found = neighbourhood(block)
        if found is not None:
            names = [found, str(found).rpartition(".")[0]]
        else:
            names = [name for name, around in self.clear.items() if block.overlaps(around)]
        for name in names:
            around = self.clear.pop(name, None)
            if around is not None:
                self.note(around)

    @property
    def is_large(self) -> bool:
        """Whether it is time to count anew."""
        return len(self.clear) + self._networks.size > self._limit

    def forget(self) -> None:
        """Nothing was accepted; what is there now is told again, and `counted` then."""
        self.clear.clear()
        self._networks = BlockIndex()

    def counted(self) -> None:
        """All that is there was told again: the next count is due when as much has come on top."""
        self._limit = max(MOST, 2 * (len(self.clear) + self._networks.size))


def near(address: str) -> str:
    """What an IPv4 address has in common with its /24, as text; empty for anything but one IPv4 address."""
    ip, slash, length = address.partition("/")
    return ip.rpartition(".")[0] if (not slash or length == "32") and ":" not in ip else ""


def neighbourhood(block: Block) -> Block | None:
    """The /24 (IPv6: /64) that a network is in; None for a wider one."""
    length = NEIGHBOURHOOD[block.version]
    return Block(block.version, length, block.value >> (block.length - length)) if block.length >= length else None
