# SPDX-License-Identifier: Apache-2.0
"""Who is admitted by a token: the API server decides, and is asked seldom."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kube import review
from kube.client import KubeClient
from kube.errors import Unreachable
from kube.review import ADMITTED_S, MAX_WAITING, REFUSED_S, AccessReviewer
from meshkit.clock import ManualClock


class Reviews:
    """An API server that knows one token of one audience, and what its holder may read."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.audiences: list[str] | None = ["clustermesh"]
        self.paths = {"/v1/status"}
        self.is_down = False

    def create(self, resource: Any, obj: dict[str, Any]) -> dict[str, Any]:
        if self.is_down:
            raise Unreachable("POST", detail="refused")
        self.asked.append(obj)
        spec = obj["spec"]
        if resource.kind == "TokenReview":
            known = spec["token"] == "good"
            return {"status": {"authenticated": known, "audiences": self.audiences, "user": {"username": "viewer"}}}
        assert spec["user"] == "viewer"
        return {"status": {"allowed": spec["nonResourceAttributes"]["path"] in self.paths}}


@pytest.fixture
def api() -> Reviews:
    return Reviews()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def reviewer(api: Reviews, clock: ManualClock) -> AccessReviewer:
    return AccessReviewer(cast(KubeClient, api), "clustermesh", clock)


async def test_a_holder_who_may_read_the_path_is_admitted(reviewer: AccessReviewer, api: Reviews) -> None:
    assert await reviewer.admit("good", "/v1/status") is None
    assert api.asked[0]["spec"]["audiences"] == ["clustermesh"]


@pytest.mark.parametrize(("token", "path", "code"), [("bad", "/v1/status", 401), ("good", "/v1/kv", 403)])
@pytest.mark.runbook("rest-403")
async def test_others_are_refused(reviewer: AccessReviewer, token: str, path: str, code: int) -> None:
    refused = await reviewer.admit(token, path)
    assert refused is not None
    assert refused.status_code == code


@pytest.mark.parametrize("audiences", [None, [], ["https://kubernetes.default.svc"]])
async def test_a_token_for_the_api_server_opens_nothing(
    reviewer: AccessReviewer, api: Reviews, audiences: list[str] | None
) -> None:
    """A server that does not know audiences answers without any: its tokens are not ours."""
    api.audiences = audiences
    refused = await reviewer.admit("good", "/v1/status")
    assert refused is not None
    assert (refused.status_code, "--audience clustermesh" in refused.message) == (401, True)


async def test_an_answer_is_remembered_and_asked_again_in_time(
    reviewer: AccessReviewer, api: Reviews, clock: ManualClock
) -> None:
    await reviewer.admit("good", "/v1/status")
    await reviewer.admit("good", "/v1/status")
    assert len(api.asked) == 2
    api.paths.clear()
    clock.advance(ADMITTED_S + 1)
    assert await reviewer.admit("good", "/v1/status") is not None
    api.paths.add("/v1/status")
    clock.advance(REFUSED_S + 1)
    assert await reviewer.admit("good", "/v1/status") is None


@pytest.mark.runbook("rest-503")
async def test_nobody_is_admitted_while_kubernetes_cannot_be_asked(reviewer: AccessReviewer, api: Reviews) -> None:
    api.is_down = True
    refused = await reviewer.admit("good", "/v1/status")
    assert refused is not None
    assert refused.status_code == 503
    api.is_down = False
    assert await reviewer.admit("good", "/v1/status") is None


async def test_a_burst_of_guesses_does_not_flood_the_api_server(
    reviewer: AccessReviewer, api: Reviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = asyncio.Event()
    running = most = 0

    async def slowly(call: Any, *args: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await opened.wait()
        running -= 1
        return call(*args)

    monkeypatch.setattr(review, "in_thread", slowly)
    guesses = [asyncio.create_task(reviewer.admit(f"guess-{n}", "/v1/status")) for n in range(200)]
    await asyncio.sleep(0)
    opened.set()
    codes = [found.status_code for found in await asyncio.gather(*guesses) if found is not None]
    assert (len(codes), codes.count(401), codes.count(503)) == (200, MAX_WAITING, 200 - MAX_WAITING)
    assert most == review.AT_ONCE
