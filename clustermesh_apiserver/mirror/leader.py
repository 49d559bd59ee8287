# SPDX-License-Identifier: Apache-2.0
"""One of several candidates that share a store leads: the one whose lock is the oldest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

from kvstore.errors import KvError, LeaseLost
from kvstore.store import ChangeKind, LeaseStore, Phase
from meshkit.clock import Clock
from meshkit.supervise import together
from meshmodel.keys import MIRROR_LOCK_PREFIX

log = logging.getLogger(__name__)

TTL_S: Final = 25.0
REFRESH_S: Final = 5.0
STOP_S: Final = 1.0


async def lead(store: LeaseStore, clock: Clock, work: Callable[[], Awaitable[None]]) -> None:
    """`work` runs while we lead.

    Raises: KvError when leadership is lost, so that a supervisor stands for election again.
    """
    lease = await store.grant(TTL_S)
    key = MIRROR_LOCK_PREFIX + f"{lease:x}".encode()
    try:
        await store.put(key, b"", lease=lease)
        await together({"lock": _hold(store, clock, lease), "leader": _work_when_first(store, key, work)})
    finally:
        # the next candidate need not wait for the lease to run out
        with suppress(KvError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await store.revoke(lease)


async def _hold(store: LeaseStore, clock: Clock, lease: int) -> None:
    heard_at = clock.monotonic()
    while True:
        await clock.sleep(REFRESH_S)
        try:
            lives = await store.keep_alive([lease])
        except KvError:
            if clock.monotonic() - heard_at >= TTL_S - REFRESH_S:
                raise LeaseLost(lease) from None
            continue
        if lives.get(lease, 0) <= 0:
            raise LeaseLost(lease)
        heard_at = clock.monotonic()


async def _work_when_first(store: LeaseStore, key: bytes, work: Callable[[], Awaitable[None]]) -> None:
    await _become_first(store, key)
    log.info("leading", extra={"key": key.decode()})
    await work()


async def _become_first(store: LeaseStore, key: bytes) -> None:
    """Locks are written once, so the order of their last writes is the order of arrival."""
    arrived: dict[bytes, int] = {}
    is_listed = False
    async with aclosing(store.list_and_watch(MIRROR_LOCK_PREFIX)) as batches:
        async for batch in batches:
            if batch.phase is Phase.LISTING:
                arrived, is_listed = {}, False
            for event in batch.events:
                if event.kind is ChangeKind.DELETE:
                    arrived.pop(event.key, None)
                else:
                    arrived[event.key] = event.revision
            is_listed = is_listed or batch.phase is Phase.LISTED
            if is_listed and arrived and min(arrived, key=lambda lock: arrived[lock]) == key:
                return
