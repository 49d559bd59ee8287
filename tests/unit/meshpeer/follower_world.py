# SPDX-License-Identifier: Apache-2.0
"""A follower of stores in memory with a consumer that remembers what it was told, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from kvstore.memory import MemoryStore
from kvstore.store import Batch, Phase, Store
from meshkit.clock import ManualClock
from meshkit.wake import Wake
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.consumer import Change
from meshpeer.followed import FollowedCluster
from meshpeer.follower import Follower
from meshpeer.reservations import Own
from meshpeer.session import SessionOptions
from tests.unit.meshpeer.peer_store import PeerStore


class Remembering:
    """What is known by kind, and the verbs other than apply in the order they came."""

    def __init__(self) -> None:
        self.known: dict[Kind, dict[bytes, bytes]] = {}
        self.verbs: list[str] = []
        self.applied: list[tuple[Kind, int]] = []
        self.fails_with: Exception | None = None

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        self.verbs.append(f"begin {config.id} {' '.join(kinds)}")

    def apply(self, kind: Kind, changes: Sequence[Change]) -> int:
        if self.fails_with is not None:
            raise self.fails_with
        self.applied.append((kind, len(changes)))
        known = self.known.setdefault(kind, {})
        for key, value in changes:
            if value is None:
                del known[key]  # a key that is not known is never taken back
            else:
                known[key] = value
        return len(changes)

    async def listed(self, kind: Kind) -> None:
        self.verbs.append(f"listed {kind}")

    def drain(self) -> None:
        self.known.clear()
        self.verbs.append("drain")

    def remove(self) -> None:
        self.known.clear()
        self.verbs.append("remove")


class World:
    """One program that follows the clusters of a directory; the own cluster is `north`, id 1."""

    def __init__(self, directory: Path, options: SessionOptions | None = None) -> None:
        self.clock, self.changed = ManualClock(), Wake()
        self.directory, self.attempts, self.closed = directory, 0, 0
        self.stores: dict[str, PeerStore] = {}
        self.connect_error: Exception | None = None
        self.cause = ""
        self.certificate_end_s, self.certificate_looks = 0.0, 0
        self.mute: set[bytes] = set()
        self.never_closes = False
        own = Own(ClusterName("north"), ClusterId(1))
        self.follower = Follower(
            own,
            directory,
            self._connect,
            lambda _name: Remembering(),
            self.clock,
            options=options,
            explain=self._explain,
            certificate_end=self._certificate_end,
        )

    async def _explain(self, _content: bytes) -> str:
        return self.cause

    async def _certificate_end(self, _content: bytes) -> float:
        self.certificate_looks += 1
        return self.certificate_end_s

    async def filled(self, name: str = "south", cluster_id: int = 2) -> PeerStore:
        """A peer that has something of everything, and is configured."""
        store = PeerStore(name, cluster_id, self.clock)
        await store.fill()
        self.add(store)
        return store

    def add(self, store: PeerStore) -> None:
        self.stores[store.name] = store
        (self.directory / store.name).write_bytes(b"endpoints:\n- http://%s:2379\n" % store.name.encode())
        self.changed.set()

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()
        self.changed.set()

    async def _connect(self, content: bytes) -> Store:
        self.attempts += 1
        if self.connect_error is not None:
            raise self.connect_error
        return _Counted(self, self.stores[content.partition(b"http://")[2].partition(b":")[0].decode()])

    def state(self, name: str = "south") -> FollowedCluster:
        return self.follower.members[ClusterName(name)].state

    def consumer(self, name: str = "south") -> Remembering:
        return self.follower.members[ClusterName(name)].consumer

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> float:
        """Move the clock in small steps until it holds; returns how much time passed."""
        moved = 0.0
        await turns()
        while not condition():
            assert moved < within_s, f"did not happen within {within_s} s"
            self.clock.advance(0.05)
            moved += 0.05
            await turns()
        return moved

    async def pass_s(self, seconds: float) -> None:
        moved = 0.0
        while moved < seconds:
            self.clock.advance(0.5)
            moved += 0.5
            await turns()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run(self._changes()))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def _changes(self) -> AsyncIterator[None]:
        seen = self.changed.count
        yield
        while True:
            seen = await self.changed.wait(seen)
            yield


class _Counted(MemoryStore):
    """Says that it was closed, and loses streams that the world made mute for ever."""

    def __init__(self, world: World, peer: PeerStore) -> None:
        super().__init__(peer.store)
        self._world = world

    async def list_and_watch(self, prefix: bytes, *, canary: bytes | None = None) -> AsyncGenerator[Batch, None]:
        is_standing = False
        while not any(prefix.startswith(mute) for mute in self._world.mute):
            async with aclosing(super().list_and_watch(prefix, canary=canary)) as batches:
                async for batch in batches:
                    if any(prefix.startswith(mute) for mute in self._world.mute):
                        break
                    is_standing = True
                    yield batch
        if is_standing:
            yield Batch(Phase.INTERRUPTED, (), 0)
        await asyncio.Event().wait()

    async def close(self) -> None:
        if self._world.never_closes:
            await asyncio.Event().wait()
        await super().close()
        self._world.closed += 1


async def turns(count: int = 40) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
