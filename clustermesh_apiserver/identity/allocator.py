# SPDX-License-Identifier: Apache-2.0
"""Identities where no Cilium makes them: one CiliumIdentity object per label set, made once, kept while in use.

The objects are the memory: numbers survive our restart and every replica and reader sees the same. Objects are made by
several requests at a time, so that a full cluster's first start is not one request after the other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from clustermesh_apiserver.identity.number_choice import Grace, IdentityBook
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.tables import Tables
from kube.client import KubeClient, in_thread
from kube.errors import AlreadyExists, KubeError
from kube.resource import CILIUM_IDENTITIES, KubeObject
from kubeintent.cilium import IDENTITY_OWNER, IDENTITY_OWNER_LABEL, read_cilium_identity
from kubeintent.rows import IdentityIntent
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.task_group import TaskGroup
from meshmodel.identity import IdentityRange, NumericIdentity
from meshmodel.labels import NAMESPACE_LABEL, Labels

log = logging.getLogger(__name__)

WORKERS: Final = 8
SWEEP_S: Final = 60.0
BACKOFF_S: Final = (0.2, 15.0)


class IdentityAllocator:
    """Tells each owner the number of its label set; makes what is missing and removes what nobody uses.

    `on_identity` is called on the loop with the key of each identity row that appears, and `on_number` with the owners
    that may go on.
    """

    def __init__(
        self,
        client: KubeClient,
        tables: Tables,
        numbers: IdentityRange,
        *,
        on_identity: Callable[[str], None],
        on_number: Callable[[set[str]], None],
        grace_s: float = ApiserverSettings.identity_grace,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng
        self._client, self._tables, self._clock = client, tables, clock or SystemClock()
        self._on_identity, self._on_number = on_identity, on_number
        self._book, self._grace = IdentityBook(numbers), Grace(grace_s)
        self._used: dict[str, Labels] = {}
        self._owners: dict[Labels, set[str]] = {}
        self._missing: asyncio.Queue[Labels] = asyncio.Queue()
        self._queued: set[Labels] = set()
        self.last_error = ""

    @property
    def pending(self) -> int:
        """How many label sets wait for a number."""
        return len(self._queued)

    def use(self, owner: str, labels: Labels) -> NumericIdentity | None:
        """The owner uses this label set; None while it has no number yet."""
        if self._used.get(owner) != labels:
            self.release(owner)
            self._used[owner] = labels
            self._owners.setdefault(labels, set()).add(owner)
        number = self._book.number_of(labels)
        if number is not None:
            return NumericIdentity(number)
        if labels not in self._queued:
            self._queued.add(labels)
            self._missing.put_nowait(labels)
        return None

    def release(self, owner: str) -> None:
        """The owner uses nothing any more."""
        labels = self._used.pop(owner, None)
        if labels is None:
            return
        owners = self._owners[labels]
        owners.discard(owner)
        if not owners:
            del self._owners[labels]

    def observe(self, identity: IdentityIntent) -> None:
        """An identity exists as an object, made by us, another replica or anybody else."""
        self._book.set_identity(identity.number, identity.labels)
        self._on_number(set(self._owners.get(identity.labels, ())))

    def forget(self, number: int) -> None:
        """An identity object is gone; whoever still uses its labels needs it made again."""
        labels = self._book.labels_of(number)
        self._book.forget(number)
        if labels is not None:
            self._on_number(set(self._owners.get(labels, ())))

    async def run(self) -> None:
        """Missing identities are made and unused ones removed, until cancelled."""
        async with TaskGroup() as group:
            for index in range(WORKERS):
                group.create_task(self._work(), name=f"identity-{index}")
            group.create_task(self._sweep(), name="identity-sweep")

    async def _work(self) -> None:
        backoff = Backoff(*BACKOFF_S, self._rng)
        while True:
            labels = await self._missing.get()
            if labels not in self._owners or self._book.number_of(labels) is not None:
                self._queued.discard(labels)
                continue
            try:
                await self._make(labels)
            except KubeError as exc:
                delay_s = backoff.next()
                if not self.last_error:
                    facts = {"error": str(exc), "delay_s": round(delay_s, 2)}
                    log.warning("identity not allocated, retrying", extra=facts)
                self.last_error = str(exc)
                await self._clock.sleep(delay_s)  # before it is queued again: another worker would take it at once
                self._missing.put_nowait(labels)
                continue
            self._queued.discard(labels)
            self.last_error = ""
            backoff.reset()

    async def _make(self, labels: Labels) -> None:
        for number in self._book.candidates(labels):
            try:
                await in_thread(self._client.create, CILIUM_IDENTITIES, manifest(number, labels))
            except AlreadyExists:
                taken = await in_thread(self._client.get, CILIUM_IDENTITIES, str(number))
                known = read_cilium_identity(taken).row if taken is not None else None
                if known is None:
                    continue  # just gone, or not ours to read: the next number will do
                self._adopt(known)
                if known.labels == labels:
                    return
                continue
            self._adopt(IdentityIntent(number, labels, _namespace(labels), managed=True))
            return

    def _adopt(self, identity: IdentityIntent) -> None:
        """Do not wait for the watch to tell what we know already."""
        self._tables.identities.put(str(identity.number), identity)
        self._on_identity(str(identity.number))
        self.observe(identity)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            if not (self._tables.pods.synced and self._tables.identities.synced):
                continue
            for number in self._grace.expired(self._unused(), self._clock.monotonic()):
                try:
                    await in_thread(self._client.delete, CILIUM_IDENTITIES, str(number))
                except KubeError as exc:
                    log.debug("unused identity not removed", extra={"key": str(number), "error": str(exc)})
                    break

    def _unused(self) -> set[int]:
        used = {self._book.number_of(labels) for labels in self._owners}
        return {row.number for row in self._tables.identities.rows() if row.managed and row.number not in used}


def manifest(number: int, labels: Labels) -> KubeObject:
    """The CiliumIdentity object for a label set."""
    meta_labels = {IDENTITY_OWNER_LABEL: IDENTITY_OWNER}
    namespace = _namespace(labels)
    if namespace is not None:
        meta_labels[NAMESPACE_LABEL] = namespace
    return {
        "metadata": {"name": str(number), "labels": meta_labels},
        "security-labels": {f"{label.source}:{label.key}": label.value for label in labels},
    }


def _namespace(labels: Labels) -> str | None:
    return next((label.value for label in labels if label.key == NAMESPACE_LABEL), None)
