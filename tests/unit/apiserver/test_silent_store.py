# SPDX-License-Identifier: Apache-2.0
"""A store that does not answer is said to be silent until it does."""

from __future__ import annotations

from typing import cast

import pytest

from clustermesh_apiserver.publish.own_store import OwnStore, look_at_store
from kvstore.errors import Unavailable


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
