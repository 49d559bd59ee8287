# SPDX-License-Identifier: Apache-2.0
"""A store that does not answer is said to be silent until it does."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from clustermesh_apiserver.publish.own_store import LOOK_S, SILENT_S, OwnStore, care_for_store, look_at_store
from kvstore.errors import Unavailable
from kvstore.etcd import EtcdStore
from kvstore.process import EtcdProcess
from kvstore.store import Status
from meshkit.clock import ManualClock


class Client:
    """A store of others that answers or not."""

    is_silent = True

    async def status(self) -> object:
        if self.is_silent:
            raise Unavailable("deadline exceeded")
        return type("Status", (), {"alarms": (), "version": "3.6.20"})()


class Kept:
    """What `look_at_store` changes."""

    caretaker = None
    problem, is_silent = "", False

    def __init__(self) -> None:
        self.client = Client()


@pytest.mark.runbook("etcd-silent")
async def test_a_store_that_does_not_answer_is_a_problem_until_it_does() -> None:
    store = Kept()
    assert not await look_at_store(cast(OwnStore, store), 0.0)
    assert (store.is_silent, store.problem.startswith("etcd does not answer: ")) == (True, True)
    store.client.is_silent = False
    assert await look_at_store(cast(OwnStore, store), 1.0)
    assert (store.is_silent, store.problem) == (False, "")


@pytest.mark.parametrize(
    ("version", "alarms", "warning", "problem"),
    [
        ("3.6.20", (), "", ""),
        ("3.5.20", (), "etcd 3.5.20 lets readers write and compact", ""),
        ("3.6.20", ("NOSPACE", "CORRUPT"), "", "has to clear: NOSPACE, CORRUPT"),
    ],
)
async def test_an_old_release_is_a_warning_and_an_alarm_of_others_a_problem(
    version: str, alarms: tuple[str, ...], warning: str, problem: str
) -> None:
    class Answering:
        async def status(self) -> Status:
            return Status(version, cluster_id=7, revision=1, size_bytes=1, alarms=alarms)

    store = OwnStore(cast(EtcdStore, Answering()))
    assert await look_at_store(store, 0.0)
    assert [text.partition(" (")[0] for text in store.warnings] == ([warning] if warning else [])
    assert store.problem.endswith(problem)
    assert bool(store.problem) is bool(problem)


@pytest.mark.parametrize("is_own", [True, False])
async def test_only_a_private_store_is_given_up_and_only_after_it_was_silent_long(is_own: bool) -> None:
    clock, client = ManualClock(), Client()
    client.is_silent = False
    store = OwnStore(cast(EtcdStore, client), process=cast(EtcdProcess, object()) if is_own else None)
    caring = asyncio.create_task(care_for_store(store, clock))
    await clock.run_for(600.0)
    assert not caring.done()
    client.is_silent = True
    await clock.run_for(SILENT_S - LOOK_S)
    client.is_silent = False
    await clock.run_for(LOOK_S)
    client.is_silent = True
    await clock.run_for(SILENT_S - LOOK_S)
    assert not caring.done(), "it answered in between"
    await clock.run_for(600.0)
    assert caring.done() is is_own
    if is_own:
        with pytest.raises(Unavailable, match="has not answered for 30 s"):
            await caring
    caring.cancel()
