# SPDX-License-Identifier: Apache-2.0
"""Leases that published keys hang on: kept alive, at most so many keys on each, and loss told to whoever owns the keys.

Readers of a mesh expect published keys to vanish some time after their writer does; minutes, not seconds.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kvstore.errors import KvError
from kvstore.store import LeaseStore
from meshkit.clock import Clock, SystemClock

log = logging.getLogger(__name__)

KEY_TTL_S: Final = 15 * 60.0
KEYS_PER_LEASE: Final = 1000
PROBE_S: Final = 10.0
RETRY_S: Final = 1.0
PROBED_LEASES: Final = 32
"""Asked about each `PROBE_S` though not due yet, oldest first: a lease that ends early is noticed then."""

LossCallback = Callable[[frozenset[bytes]], None]


@dataclass(slots=True)
class _Held:
    ttl_s: float
    refreshed_at: float
    keys: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class EarlyLoss:
    """A lease that ended under its keys. `at_s` is monotonic time."""

    keys: int
    at_s: float


class LeaseSession:
    """A pool of leases shared by all stores of one writer.

    `run` keeps them alive. A lease is lost when the store says so, when a put on it fails, when another store answers,
    or when nothing was heard for its whole life; then every listener is told the keys that hung on it, once.
    `losses` counts lost leases, whatever the reason; `early_loss` is the last of those that ended in a store that lives.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        ttl_s: float = KEY_TTL_S,
        keys_per_lease: int = KEYS_PER_LEASE,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store, self._clock, self.rng = store, clock or SystemClock(), rng
        self._ttl_s, self._keys_per_lease = ttl_s, keys_per_lease
        self._leases: dict[int, _Held] = {}
        self._of_key: dict[bytes, int] = {}
        self.on_loss: list[LossCallback] = []
        store.on_store_change.append(self.invalidate)
        self.losses = 0
        self.early_loss: EarlyLoss | None = None

    @property
    def leases(self) -> tuple[int, ...]:
        """The ids of the leases held now."""
        return tuple(self._leases)

    async def bind(self, keys: Iterable[bytes]) -> Mapping[int, list[bytes]]:
        """Which lease each key hangs on, grouped by lease; keys without one get room on one, new if need be.

        Raises: KvError if a lease is needed and cannot be had; the keys bound so far stay bound.
        """
        groups: dict[int, list[bytes]] = {}
        for key in keys:
            lease = self._of_key.get(key)
            if lease is None:
                lease = await self._with_room()
                self._leases[lease].keys.add(key)
                self._of_key[key] = lease
            groups.setdefault(lease, []).append(key)
        return groups

    def release(self, key: bytes) -> None:
        """A deleted key takes no room any more."""
        lease = self._of_key.pop(key, None)
        if lease in self._leases:
            self._leases[lease].keys.discard(key)

    def report_lost(self, lease: int) -> None:
        """A lease turned out to be gone: forget it and tell the owners of its keys."""
        if lease in self._leases:
            self.early_loss = EarlyLoss(len(self._leases[lease].keys), self._clock.monotonic())
        self._lose(lease)

    def _lose(self, lease: int) -> None:
        held = self._leases.pop(lease, None)
        if held is None:
            return
        self.losses += 1
        for key in held.keys:
            self._of_key.pop(key, None)
        log.warning("lease lost, its keys are written again", extra={"reason": f"{len(held.keys)} keys"})
        lost = frozenset(held.keys)
        for callback in self.on_loss:
            callback(lost)

    def invalidate(self) -> None:
        """The store was replaced or emptied: no lease of ours exists in it."""
        for lease in list(self._leases):
            self._lose(lease)

    async def run(self) -> None:
        """Every lease stays alive for as long as this runs; a store that was emptied is noticed within `PROBE_S`,
        and so is the end of one of `PROBED_LEASES`; with more of them every lease has its turn."""
        interval_s = min(self._ttl_s / 3, PROBE_S)
        delay_s = interval_s
        while True:
            await self._clock.sleep(delay_s)
            try:
                await self.refresh()
                delay_s = interval_s
            except KvError as exc:
                delay_s = min(RETRY_S, interval_s)
                log.debug("lease keep-alive failed", extra={"error": repr(exc), "delay_s": delay_s})
                self._give_up_silent()

    async def refresh(self) -> None:
        """Refresh the leases that are due, and some more, which tells of what ended early and whether the store knows us."""
        now = self._clock.monotonic()
        oldest_first = sorted(self._leases, key=lambda lease: self._leases[lease].refreshed_at)
        due = [lease for lease in oldest_first if now - self._leases[lease].refreshed_at >= self._ttl_s / 3 - PROBE_S]
        lives = await self._store.keep_alive(oldest_first[: max(len(due), PROBED_LEASES)])
        for lease, ttl_s in lives.items():
            if ttl_s <= 0:
                self.report_lost(lease)
            elif lease in self._leases:
                self._leases[lease].refreshed_at = now

    async def close(self) -> None:
        """Every lease and every key on them are gone from the store, as far as it can be reached."""
        leases, self._leases, self._of_key = list(self._leases), {}, {}
        for lease in leases:
            try:
                await self._store.revoke(lease)
            except KvError as exc:
                log.debug("lease not revoked", extra={"error": repr(exc)})
                return

    async def _with_room(self) -> int:
        for lease, held in reversed(self._leases.items()):
            if len(held.keys) < self._keys_per_lease:
                return lease
        lease = await self._store.grant(self._ttl_s)
        self._leases[lease] = _Held(self._ttl_s, self._clock.monotonic())
        return lease

    def _give_up_silent(self) -> None:
        now = self._clock.monotonic()
        for lease, held in list(self._leases.items()):
            if now - held.refreshed_at >= held.ttl_s:
                self.report_lost(lease)
