# SPDX-License-Identifier: Apache-2.0
"""The in-memory store and a real etcd behind one face, faults included, so that one test judges both."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from kvstore.errors import KvError
from kvstore.etcd import EtcdStore
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.options import Options
from kvstore.process import EtcdProcess
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import LeaseStore
from tests.integration.kvstore.private_etcd import QUICK, Relay
from tests.support.watchstore import WatchStore

# how many bytes of a catch-up pass before the cut; the test writes several times as many
CUT_AFTER_BYTES = 60_000


class StoreUnderTest(Protocol):
    """A store, and everything that can happen to it."""

    def client(self, options: Options = QUICK) -> LeaseStore: ...

    async def compact(self) -> None: ...

    async def cut(self) -> None: ...

    async def go_down(self) -> None: ...

    async def come_back(self) -> None: ...

    async def wipe(self, *, keep_id: bool = False) -> None: ...

    def cut_next_catch_up(self) -> None: ...

    @property
    def has_cut(self) -> bool: ...

    async def close(self) -> None: ...


class MemoryUnderTest:
    """MemoryServer; its faults are method calls."""

    def __init__(self) -> None:
        self.store = MemoryServer()
        self._clients: list[MemoryStore] = []

    def client(self, options: Options = QUICK) -> MemoryStore:
        self._clients.append(MemoryStore(self.store, options))
        return self._clients[-1]

    async def compact(self) -> None:
        self.store.compact()

    async def cut(self) -> None:
        self.store.cut()

    async def go_down(self) -> None:
        self.store.stop()

    async def come_back(self) -> None:
        self.store.start()

    async def wipe(self, *, keep_id: bool = False) -> None:
        self.store.wipe(keep_id=keep_id)

    def cut_next_catch_up(self) -> None:
        self.store.cut_after_events = 100

    @property
    def has_cut(self) -> bool:
        return self.store.cut_after_events is None

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


class EtcdUnderTest:
    """A real etcd behind a relay, so that connections break without a restart."""

    def __init__(self, process: EtcdProcess, directory: Path) -> None:
        self._process, self._directory = process, directory
        self._relay = Relay(lambda: ("127.0.0.1", process.port))
        self._clients: list[EtcdStore] = []

    async def start(self) -> None:
        await self._relay.start()

    def client(self, options: Options = QUICK) -> EtcdStore:
        target = f"127.0.0.1:{self._relay.port}"
        self._clients.append(EtcdStore([target], self._process.admin_tls(), options))
        return self._clients[-1]

    async def compact(self) -> None:
        direct = self._process.connect()
        status = await direct.status()
        with suppress(KvError):  # compacted there already
            await direct.call(direct.methods.compact, pb.CompactionRequest(revision=status.revision, physical=True))
        await direct.close()

    async def cut(self) -> None:
        self._relay.cut()

    async def go_down(self) -> None:
        self._relay.accepts = False
        self._relay.cut()

    async def come_back(self) -> None:
        self._relay.accepts = True

    async def wipe(self, *, keep_id: bool = False) -> None:
        await self._process.kill()
        if keep_id:
            shutil.rmtree(self._directory / "data")
        await self._process.start(keep_data=keep_id)

    def cut_next_catch_up(self) -> None:
        self._relay.budget = CUT_AFTER_BYTES

    @property
    def has_cut(self) -> bool:
        return self._relay.budget is None

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self._relay.stop()


@dataclass(frozen=True)
class BadValueError(ValueError):
    """What a codec raises for a value it cannot believe."""

    reason: str


class TextCodec:
    """Values are text; one that begins with `!` cannot be decoded."""

    def decode(self, key: bytes, value: bytes) -> str:
        if value.startswith(b"!"):
            raise BadValueError("exclaimed")
        return value.decode()


class Recorder:
    """Remembers what a WatchStore said, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, str]] = []

    def upsert(self, key: bytes, value: str) -> None:
        self.calls.append(("upsert", key, value))

    def delete(self, key: bytes, value: str) -> None:
        self.calls.append(("delete", key, value))

    @property
    def counts(self) -> Counter[str]:
        return Counter(kind for kind, _, _ in self.calls)


@dataclass
class Reader:
    """A running WatchStore and what it said."""

    store: WatchStore[str]
    heard: Recorder
    task: asyncio.Task[None]

    @property
    def values(self) -> dict[bytes, str]:
        return dict(self.store.entries)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def reading(
    client: LeaseStore, prefix: bytes, *, canary: bytes | None = None, wait: bool = True
) -> AsyncIterator[Reader]:
    """A WatchStore that follows the prefix, synced unless told not to wait."""
    heard = Recorder()
    store: WatchStore[str] = WatchStore(TextCodec(), heard)
    reader = Reader(store, heard, asyncio.create_task(store.run(client, prefix, canary=canary)))
    try:
        if wait:
            async with asyncio.timeout(10):
                await store.synced.wait()
        yield reader
    finally:
        await reader.stop()


async def until_applied(client: LeaseStore, ops: Mapping[bytes, bytes | None]) -> None:
    """The operations are applied, as soon as the store is back."""
    for _ in range(500):
        try:
            await client.apply(ops)
        except KvError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the store never came back")


async def until_written(client: LeaseStore, key: bytes, value: bytes | None) -> None:
    """The key has the value (None: is gone), as soon as the store is back."""
    await until_applied(client, {key: value})


async def contents(client: LeaseStore, prefix: bytes) -> dict[bytes, bytes]:
    """What is under the prefix, without it."""
    return {entry.key[len(prefix) :]: entry.value async for page in client.list(prefix) for entry in page.entries}


def paged(size: int) -> Options:
    """Quick options with small pages."""
    return replace(QUICK, page_size=size)
