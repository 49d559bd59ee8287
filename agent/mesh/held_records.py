# SPDX-License-Identifier: Apache-2.0
"""Records of one cluster that are refused for now, found by the networks whose change may let them in. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.mesh.blocks import Block, BlockIndex
from meshmodel.keys import Kind

MANY_BLOCKS: Final = 16
MAXIMUM_RECORDS: Final = 10_000
MAXIMUM_BYTES: Final = 16 << 20

Key = tuple[Kind, bytes]


@dataclass(frozen=True, slots=True)
class _Record:
    value: bytes
    blocks: tuple[Block, ...]


class Held:
    """At most so many records and bytes; `overflowed` has the kinds of which one was not taken since `clear`."""

    def __init__(self, maximum_records: int = MAXIMUM_RECORDS, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._maximum_records, self._maximum_bytes = maximum_records, maximum_bytes
        self._records: dict[Key, _Record] = {}
        self._index: BlockIndex[Key] = BlockIndex()
        self.size_bytes = 0
        self.overflowed: set[Kind] = set()

    def __len__(self) -> int:
        return len(self._records)

    def keys(self) -> Collection[Key]:
        return self._records.keys()

    @property
    def has_room_again(self) -> bool:
        """Whether records that were not taken might find room now."""
        is_half = len(self) <= self._maximum_records / 2 and self.size_bytes <= self._maximum_bytes / 2
        return bool(self.overflowed) and is_half

    def put(self, key: Key, value: bytes, blocks: Iterable[Block]) -> bool:
        """The record waits for a change of one of the networks; false if there is no room, and it is forgotten."""
        self.pop(key)
        size = len(value) + len(key[1])
        if len(self._records) >= self._maximum_records or self.size_bytes + size > self._maximum_bytes:
            self.overflowed.add(key[0])
            return False
        record = self._records[key] = _Record(value, tuple(dict.fromkeys(blocks)))
        self.size_bytes += size
        for block in record.blocks:
            self._index.add(block, key)
        return True

    def pop(self, key: Key) -> bytes | None:
        """The record, which waits no longer; None if it did not."""
        record = self._records.pop(key, None)
        if record is None:
            return None
        self.size_bytes -= len(record.value) + len(key[1])
        for block in record.blocks:
            self._index.discard(block, key)
        return record.value

    def waiting_for(self, blocks: Iterable[Block]) -> list[Key]:
        """Records that a change of these networks may let in."""
        if not self._records:
            return []
        return list(dict.fromkeys(key for block in blocks for _, key in self._index.overlapping(block)))

    def waiting_at(self, blocks: Iterable[Block]) -> list[Key]:
        """Records that wait for exactly one of these networks."""
        if not self._records:
            return []
        return list(dict.fromkeys(key for block in blocks for key in self._index.at(block)))

    def keep(self, kinds: Iterable[Kind]) -> None:
        """Records of other kinds wait no longer."""
        kept = set(kinds)
        for key in [key for key in self._records if key[0] not in kept]:
            self.pop(key)
        self.overflowed &= kept


def around(blocks: Sequence[Block]) -> Sequence[Block]:
    """The networks of many addresses, so that a large record waits for few."""
    if len(blocks) <= MANY_BLOCKS:
        return blocks
    return [Block(b.version, 24, b.value >> (b.length - 24)) if b.version == 4 and b.length > 24 else b for b in blocks]
