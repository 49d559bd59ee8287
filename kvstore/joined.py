# SPDX-License-Identifier: Apache-2.0
"""Writes that several writers ask for at once, as one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.errors import LeaseLost, Rejected
from kvstore.store import MAX_TXN_OPS, Store, lease_by_key

# below etcd's request limit of 1.5 MiB, with room for the keys and the framing
MAX_TXN_BYTES: Final = 1 << 20


@dataclass(eq=False, slots=True)
class _Part:
    """What one writer asked for; `revision` is its answer."""

    ops: Mapping[bytes, bytes | None]
    leases: Mapping[bytes, int]
    revision: asyncio.Future[int]

    @property
    def size_bytes(self) -> int:
        return sum(len(key) + len(value or b"") for key, value in self.ops.items())


class JoinedWrites:
    """The writers of one store who never write the same key.

    A change of one object often changes records of two kinds: they cost one round trip, and readers see both or none.
    Where a transaction is refused for something in it, each part is tried alone: nobody suffers for another's record.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: list[_Part] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def apply(self, ops: Mapping[bytes, bytes | None], *, lease: int | Mapping[bytes, int] = 0) -> int:
        """As `Store.apply`, together with what others ask for in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        part = _Part(ops, lease_by_key(ops, lease), loop.create_future())
        if not self._asked:
            loop.call_soon(self._send)
        self._asked.append(part)
        return await part.revision

    def _send(self) -> None:
        asked, self._asked = [part for part in self._asked if not part.revision.done()], []
        for parts in _that_fit(asked):
            task = asyncio.get_running_loop().create_task(self._write(parts))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _write(self, parts: Sequence[_Part]) -> None:
        ops = {key: value for part in parts for key, value in part.ops.items()}
        leases = {key: lease for part in parts for key, lease in part.leases.items()}
        try:
            revision = await self._store.apply(ops, lease=leases)
        except (Rejected, LeaseLost) as exc:
            if len(parts) == 1:
                _fail(parts, exc)
                return
            for part in parts:
                await self._write([part])
        except Exception as exc:
            _fail(parts, exc)
        else:
            for part in parts:
                if not part.revision.done():
                    part.revision.set_result(revision)


def _that_fit(parts: Sequence[_Part]) -> Iterator[Sequence[_Part]]:
    """Parts in their order, as many at a time as one transaction takes."""
    fitting: list[_Part] = []
    count = size_bytes = 0
    for part in parts:
        count, size_bytes = count + len(part.ops), size_bytes + part.size_bytes
        if fitting and (count > MAX_TXN_OPS or size_bytes > MAX_TXN_BYTES):
            yield fitting
            fitting, count, size_bytes = [], len(part.ops), part.size_bytes
        fitting.append(part)
    if fitting:
        yield fitting


def _fail(parts: Sequence[_Part], error: Exception) -> None:
    for part in parts:
        if not part.revision.done():
            part.revision.set_exception(error)
