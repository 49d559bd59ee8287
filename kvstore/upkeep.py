# SPDX-License-Identifier: Apache-2.0
"""Keeping a private etcd below its quota: what to do is decided from its status alone, then done.

A full etcd refuses every write until its alarm is disarmed by hand. Our store is a cache of Kubernetes with few readers
of old revisions, so history is given up before that happens, and the alarm is disarmed once there is room again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kvstore.errors import Compacted
from kvstore.etcd import EtcdStore
from kvstore.methods import unary
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import Status

log = logging.getLogger(__name__)

NOSPACE: Final = "NOSPACE"
# of the quota: begin to make room; be content; still have room enough to disarm
HIGH: Final = 0.8
ROOM: Final = 0.9
# a file that is so many times what it holds is worth a pause of all writes
FRAGMENTED: Final = 2.0
# etcd stands still while it defragments, so a store that is really full is not defragmented all the time
FULL_INTERVAL_S: Final = 60.0
EARLY_INTERVAL_S: Final = 600.0
DEFRAGMENT_S: Final = 60.0


class Step(StrEnum):
    """What is to be done with the store."""

    NOTHING = "nothing"
    MAKE_ROOM = "make room"
    DISARM = "disarm"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is to be done, and what is wrong meanwhile ("" if nothing is)."""

    step: Step
    problem: str = ""


def decide(status: Status, quota_bytes: int, *, since_s: float) -> Upkeep:
    """What a store in this state needs; `since_s` is how long ago room was made, infinite for never.

    Room is made by compaction and defragmentation. A NOSPACE alarm is disarmed only if what is in use leaves room;
    any other alarm is never disarmed.
    """
    others = [alarm for alarm in status.alarms if NOSPACE not in alarm]
    if others:
        return Upkeep(Step.NOTHING, f"etcd raised an alarm: {', '.join(others)}")
    sizes = f"{_mib(status.used_bytes)} of {_mib(quota_bytes)} MiB in use, file {_mib(status.size_bytes)} MiB"
    if status.alarms:
        if max(status.size_bytes, status.used_bytes) < ROOM * quota_bytes:
            return Upkeep(Step.DISARM)
        problem = f"etcd is full and takes no records ({sizes})"
        return Upkeep(Step.MAKE_ROOM if since_s >= FULL_INTERVAL_S else Step.NOTHING, problem)
    if status.size_bytes < HIGH * quota_bytes:
        return Upkeep(Step.NOTHING)
    if status.used_bytes < HIGH * quota_bytes and status.size_bytes < FRAGMENTED * status.used_bytes:
        return Upkeep(Step.NOTHING)  # the file has room inside, which etcd uses by itself
    problem = f"etcd is nearly full ({sizes})" if status.used_bytes >= HIGH * quota_bytes else ""
    return Upkeep(Step.MAKE_ROOM if since_s >= EARLY_INTERVAL_S else Step.NOTHING, problem)


async def make_room(store: EtcdStore, revision: int) -> None:
    """History before the revision is given up and the file is as small as what it holds.

    Watches that are up to date do not notice; one that is behind lists again. Writes wait while etcd defragments.
    Raises: KvError.
    """
    with suppress(Compacted):  # etcd did it by itself meanwhile
        await store.call(store.methods.compact, pb.CompactionRequest(revision=revision, physical=True))
    defragment = unary(store.channel, "Maintenance/Defragment", pb.DefragmentRequest, pb.DefragmentResponse)
    await store.call(defragment, pb.DefragmentRequest(), timeout_s=DEFRAGMENT_S)


async def disarm(store: EtcdStore) -> None:
    """No member has a NOSPACE alarm, and writes are taken again. Raises: KvError."""
    alarm = unary(store.channel, "Maintenance/Alarm", pb.AlarmRequest, pb.AlarmResponse)
    raised = await store.call(alarm, pb.AlarmRequest(action=pb.AlarmRequest.GET))
    for member in raised.alarms:
        if member.alarm == pb.NOSPACE:
            request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=member.memberID, alarm=pb.NOSPACE)
            await store.call(alarm, request)


class Caretaker:
    """Does for one private etcd what `decide` says; `problem` says what is wrong, "" if nothing is."""

    def __init__(self, store: EtcdStore, quota_bytes: int) -> None:
        self._store, self._quota_bytes = store, quota_bytes
        self._made_room_at = float("-inf")
        self.problem = ""
        self.rooms_made = self.disarmed = 0

    async def look(self, now: float) -> Status:
        """The store has been asked how it is, and helped if it needed that; returns what it said last.

        Raises: KvError if it does not answer.
        """
        status = await self._store.status()
        upkeep = decide(status, self._quota_bytes, since_s=now - self._made_room_at)
        if upkeep.step is Step.MAKE_ROOM:
            self._made_room_at = now
            log.warning("store is running full, making room", extra={"reason": upkeep.problem or "fragmented"})
            await make_room(self._store, status.revision)
            self.rooms_made += 1
            status = await self._store.status()
            upkeep = decide(status, self._quota_bytes, since_s=0.0)
        if upkeep.step is Step.DISARM:
            await disarm(self._store)
            self.disarmed += 1
            log.warning("store has room again, alarm disarmed", extra={"revision": status.revision})
            status = await self._store.status()
            upkeep = decide(status, self._quota_bytes, since_s=0.0)
        self.problem = upkeep.problem
        return status


def _mib(size: int) -> int:
    return size >> 20
