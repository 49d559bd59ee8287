# SPDX-License-Identifier: Apache-2.0
"""Records out of the kernel's ring buffer: two memory maps and a descriptor the event loop waits on.

Source: Documentation/bpf/ringbuf.rst. The consumer position is ours to write, the producer position and the data are
the kernel's; a record's length word carries a busy and a discard bit.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from agent.datapath import kernel, syscall
from agent.datapath.flow_layout import DatapathEvent, is_event
from meshkit.descriptors import readable

_BUSY: Final = 1 << 31
_DISCARD: Final = 1 << 30
_HEADER_BYTES: Final = 8
_LOST_REASONS: Final = 2
_GATHER_S: Final = 0.02
"""Records that come within this are taken together: the kernel wakes nobody while a reader is behind."""


class EventRing:
    """The consumer side of mesh_events; there is one per node at a time."""

    def __init__(self, ring_path: Path, lost_path: Path) -> None:
        self._fd = syscall.get_pinned(ring_path)
        self._lost_map = kernel.RawMap(syscall.get_pinned(lost_path))
        size, page = syscall.map_info(self._fd).max_entries, mmap.PAGESIZE
        self._mask = size - 1
        self._consumer = mmap.mmap(self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(self._fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._position = ctypes.c_uint64.from_buffer(self._consumer)
        self._data = memoryview(self._producer)[page:]
        self._end = memoryview(self._producer)[:8].cast("Q")

    def fileno(self) -> int:
        """What is readable while records wait."""
        return self._fd

    def drain(self, limit: int = 4096) -> list[DatapathEvent]:
        """The same as `take`, decoded."""
        return [DatapathEvent.unpack(raw) for raw in self.take(limit)]

    def take(self, limit: int = 4096) -> list[bytes]:
        """Up to `limit` waiting records, oldest first; never blocks. Records of another version are skipped."""
        found: list[bytes] = []
        position, end = self._position.value, self._end[0]
        while position < end and len(found) < limit:
            start = position & self._mask
            word = int.from_bytes(self._data[start : start + 4], "little")
            if word & _BUSY:
                break
            length = word & ~(_BUSY | _DISCARD)
            if not word & _DISCARD:
                raw = bytes(self._data[start + _HEADER_BYTES : start + _HEADER_BYTES + length])
                if is_event(raw):
                    found.append(raw)
            position += (length + _HEADER_BYTES + 7) & ~7
        self._position.value = position
        return found

    async def batches(self, limit: int = 4096) -> AsyncIterator[list[bytes]]:
        """Non-empty batches for as long as the loop runs; cancel to stop. One iteration at a time."""
        while True:
            if batch := self.take(limit):
                yield batch
                await asyncio.sleep(_GATHER_S)
            else:
                await readable(self)

    @property
    def lost(self) -> list[int]:
        """For each CPU, events it could not deliver since the maps were made: buffer full or over the rate."""
        cpus = kernel.possible_cpus()
        total = [0] * cpus
        for why in range(_LOST_REASONS):
            if raw := self._lost_map.get(struct.pack("<I", why), 8 * cpus):
                total = [sum(pair) for pair in zip(total, struct.unpack(f"<{cpus}Q", raw), strict=True)]
        return total

    def close(self) -> None:
        """Unmap; the ring stays in the kernel."""
        self._data.release()
        self._end.release()
        del self._position
        self._consumer.close()
        self._producer.close()
        self._lost_map.close()
        os.close(self._fd)
