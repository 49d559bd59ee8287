# SPDX-License-Identifier: Apache-2.0
"""The events of a program: made from looks, bounded, asked for by time, kind, cluster and number, and followed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
import pytest
from starlette.responses import StreamingResponse

from meshapi.event import MeshLook
from meshapi.peer import PeerState, RemoteCluster
from meshkit.clock import ManualClock
from meshkit.health import Health
from meshkit.http import make_app
from meshkit.metrics import Registry
from meshkit.rest import Rest
from meshpeer.events import LOOK_S, EventLog, add_event_routes


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(wall=0.0)
        self.now = MeshLook()
        self.log = EventLog(lambda: self.now, self.clock, cluster="north", program="clustermesh-agent", node="n1")
        self.app = make_app("test", "1", Health(), Registry("test"))
        add_event_routes(Rest(self.app), self.log)

    def see(self, name: str, state: PeerState) -> None:
        self.clock.advance(1.0)
        self.now = MeshLook({**self.now.peers, name: RemoteCluster(name=name, state=state)})
        self.log.look()

    async def get(self, query: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(f"/v1/events{query}")

    async def events(self, query: str) -> list[dict[str, Any]]:
        answer = await self.get(query)
        assert answer.status_code == 200, answer.text
        return [msgspec.json.decode(line) for line in answer.content.splitlines()]


@pytest.fixture
def world() -> World:
    world = World()
    world.see("south", PeerState.READY)
    world.see("east", PeerState.CONNECTING)
    world.see("south", PeerState.DISCONNECTED)
    return world


async def test_events_name_who_saw_them_and_when_and_are_counted(world: World) -> None:
    first, *_, last = await world.events("")
    assert first == {
        "schema": 1, "time": "1970-01-01T00:00:01.000Z", "number": 1, "cluster": "north", "program": "clustermesh-agent",
        "node": "n1", "kind": "session", "level": "info", "peer": "south", "subject": "south",
        "message": "configured; ready",
    }  # fmt: skip
    assert (last["number"], last["level"], last["message"]) == (3, "warning", "ready -> disconnected")


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("?since=1970-01-01T00:00:02Z", [2, 3]),
        ("?cluster=east", [2]),
        ("?cluster=north", [1, 2, 3]),
        ("?kind=session&limit=1", [3]),
        ("?kind=node", []),
        ("?limit=0", []),
    ],
)
async def test_what_is_asked_for_is_told(world: World, query: str, numbers: list[int]) -> None:
    assert [event["number"] for event in await world.events(query)] == numbers


@pytest.mark.parametrize("query", ["?since=yesterday", "?kind=weather", "?limit=-1", "?limit=2001", "?cluste=x"])
async def test_what_cannot_be_read_is_refused(world: World, query: str) -> None:
    answer = await world.get(query)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}


async def test_a_follower_gets_what_there_was_and_what_comes(world: World) -> None:
    handler = next(route for route in world.app.routes if getattr(route, "path", "") == "/v1/events")
    answer = await handler.endpoint(since="", kind="", cluster="east", limit=500, follow=True)  # type: ignore[attr-defined]
    assert isinstance(answer, StreamingResponse)
    world.see("east", PeerState.READY)
    async with aclosing(answer.body_iterator) as lines:  # type: ignore[type-var]
        shown = [msgspec.json.decode(await anext(lines))["number"] for _ in range(2)]
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        world.see("south", PeerState.READY)
        world.see("east", PeerState.DISCONNECTED)
        shown.append(msgspec.json.decode(await waiting)["number"])
    assert shown == [2, 4, 6]


async def test_the_first_event_of_a_program_is_its_start() -> None:
    world = World()
    running = asyncio.ensure_future(world.log.run("0.1.0"))
    await world.clock.run_for(0.0)
    world.now = MeshLook(health={"store": ("failed", "gone")})
    await world.clock.run_for(LOOK_S)
    running.cancel()
    assert [event.message for event in world.log.journal.last(9, lambda _: True)] == [
        "started, version 0.1.0", "new -> failed: gone",
    ]  # fmt: skip
