# SPDX-License-Identifier: Apache-2.0
"""Networks as numbers, and items found by the networks that overlap theirs. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

_BITS: Final = {4: 32, 6: 128}
_BUCKET_LENGTH: Final = {4: 24, 6: 64}

T = TypeVar("T", bound=Hashable)


class Block(NamedTuple):
    """One network; an address is a network of full length. `value` is the network's leading `length` bits."""

    version: int
    length: int
    value: int

    def __str__(self) -> str:
        bits = _BITS[self.version]
        address = ipaddress.ip_address((self.value << (bits - self.length)).to_bytes(bits // 8, "big"))
        return str(address) if self.length == bits else f"{address}/{self.length}"

    @property
    def is_address(self) -> bool:
        """Whether it has one address only."""
        return self.length == _BITS[self.version]

    def covers(self, other: Block) -> bool:
        """Whether the other network is this one or a part of it."""
        if self.version != other.version or self.length > other.length:
            return False
        return other.value >> (other.length - self.length) == self.value

    def overlaps(self, other: Block) -> bool:
        return self.covers(other) or other.covers(self)


def block_of(text: str) -> Block:
    """The network of an address or prefix; host bits are cleared. Raises: ValueError."""
    network = ipaddress.ip_network(text, strict=False)
    bits, length = _BITS[network.version], network.prefixlen
    return Block(network.version, length, int(network.network_address) >> (bits - length))


class BlockIndex(Generic[T]):
    """Items by network. Finding what overlaps a network costs what is found and the number of lengths in use."""

    def __init__(self) -> None:
        self._items: dict[Block, dict[T, None]] = {}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        self._buckets: dict[int, dict[int, dict[Block, None]]] = {4: {}, 6: {}}
        self._wide: dict[Block, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    @property
    def size(self) -> int:
        """How many networks have items."""
        return len(self._items)

    def add(self, block: Block, item: T) -> bool:
        """The item is found by this network; true if it was not before."""
        items = self._items.get(block)
        if items is None:
            items = self._items[block] = {}
            self._lengths[block.version][block.length] += 1
            place = self._place(block)
            place[block] = None
        if item in items:
            return False
        items[item] = None
        return True

    def discard(self, block: Block, item: T) -> bool:
        """The item is not found by this network any more; true if it was before."""
        items = self._items.get(block)
        if items is None or item not in items:
            return False
        del items[item]
        if not items:
            self._drop(block)
        return True

    def at(self, block: Block) -> tuple[T, ...]:
        """Items of exactly this network."""
        return tuple(self._items.get(block, ()))

    def covering(self, block: Block) -> Iterator[tuple[Block, T]]:
        """Items of this network and of wider ones that contain it."""
        for length in self._lengths[block.version]:
            if length <= block.length:
                wider = Block(block.version, length, block.value >> (block.length - length))
                for item in self._items.get(wider, ()):
                    yield wider, item

    def overlapping(self, block: Block) -> Iterator[tuple[Block, T]]:
        """Items of every network that has an address in common with this one."""
        yield from self.covering(block)
        for found in self._inside(block):
            if found.length > block.length and block.covers(found):
                for item in tuple(self._items[found]):
                    yield found, item

    def _inside(self, block: Block) -> Iterator[Block]:
        """Networks that may be parts of this one."""
        buckets, cut = self._buckets[block.version], _BUCKET_LENGTH[block.version]
        if block.length >= cut:
            yield from tuple(buckets.get(block.value >> (block.length - cut), ()))
            return
        yield from (wide for wide in tuple(self._wide) if wide.version == block.version)
        shift = cut - block.length
        if len(buckets) < 1 << shift:
            numbers = [number for number in buckets if number >> shift == block.value]
        else:
            first = block.value << shift
            numbers = [number for number in range(first, first + (1 << shift)) if number in buckets]
        for number in numbers:
            yield from tuple(buckets[number])

    def _place(self, block: Block) -> dict[Block, None]:
        cut = _BUCKET_LENGTH[block.version]
        if block.length < cut:
            return self._wide
        return self._buckets[block.version].setdefault(block.value >> (block.length - cut), {})

    def _drop(self, block: Block) -> None:
        del self._items[block]
        lengths = self._lengths[block.version]
        lengths[block.length] -= 1
        if not lengths[block.length]:
            del lengths[block.length]
        place = self._place(block)
        del place[block]
        cut = _BUCKET_LENGTH[block.version]
        if not place and block.length >= cut:
            del self._buckets[block.version][block.value >> (block.length - cut)]
