# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response

from meshkit import http as meshhttp
from meshkit import probe_server
from meshkit.clock import ManualClock
from meshkit.followers import Followers
from meshkit.guard import Guard, NotAdmitted, admit_nobody
from meshkit.health import Health
from meshkit.http import bind_unix, make_app, probes, serve
from meshkit.metrics import Registry
from meshkit.probe_server import MAX_OPEN, serve_probes
from meshkit.rest import Rest


def make() -> meshhttp.App:
    app = make_app("test", "1.0", Health(ManualClock()), Registry("mesh", process=False))
    rest = Rest(app)

    @rest.get("/v1/secrets", list[str], tag="x")
    async def secrets() -> list[str]:
        return ["plans"]

    return app


async def admit(token: str, path: str) -> NotAdmitted | None:
    return None if (token, path) == ("leia", "/v1/secrets") else NotAdmitted(403, f"{token} may not")


def client(app: meshhttp.App) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")  # type: ignore[arg-type]


async def test_without_a_token_only_open_paths_answer() -> None:
    app = make()
    async with client(Guard(app, admit, headers=("X-Mesh",))) as http:
        closed = {route.path for route in app.routes} - {"/healthz", "/readyz", "/metrics"}  # type: ignore[attr-defined]
        assert {"/v1/secrets", "/openapi.json", "/docs"} <= closed
        for path in sorted(closed):
            for method in ("GET", "POST", "OPTIONS"):
                assert (await http.request(method, path)).status_code == 401, path
        assert (await http.get("/healthz/")).status_code == 401
        assert (await http.get("//metrics/../v1/secrets")).status_code == 401
        assert [(await http.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 503, 200]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-mesh": "leia"}, 200),
        ({"Authorization": "Bearer leia"}, 200),
        ({"Authorization": "bearer  leia "}, 200),
        ({"Authorization": "Basic leia"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"x-mesh": ""}, 401),
        ({"x-mesh": "luke", "Authorization": "Bearer leia"}, 403),
    ],
)
async def test_a_token_is_taken_from_our_header_or_from_authorization(headers: Mapping[str, str], code: int) -> None:
    async with client(Guard(make(), admit, headers=("X-Mesh",))) as http:
        assert (await http.get("/v1/secrets", headers=headers)).status_code == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_no_token_changes_anything_over_the_network(method: str) -> None:
    asked: list[str] = []

    async def admit_all(_token: str, path: str) -> None:
        asked.append(path)

    app = make()
    Rest(app).post("/v1/change", list[str], tag="x")(_never)
    async with client(Guard(app, admit_all)) as http:
        for path in ("/v1/change", "/v1/secrets", "/healthz", "/metrics"):
            answer = await http.request(method, path, headers={"Authorization": "Bearer leia"})
            assert answer.status_code == 403, path
            assert "unix socket" in answer.text
    assert not asked


async def _never() -> list[str]:
    raise AssertionError("the handler was reached")


async def test_without_a_kubernetes_api_nobody_is_admitted() -> None:
    async with client(Guard(make(), admit_nobody)) as http:
        assert (await http.get("/v1/secrets", headers={"Authorization": "Bearer leia"})).status_code == 403


@asynccontextmanager
async def running_probes(health: Health) -> AsyncIterator[int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = serve_probes("127.0.0.1", 0, probes(health, health.ready), on_started=port.set_result)
    task = asyncio.create_task(serving)
    try:
        yield await asyncio.wait_for(port, 5)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ask(port: int, line: str = "GET /healthz HTTP/1.1") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{line}\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(5):
        answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_probes_say_alive_and_ready() -> None:
    health = Health(ManualClock())
    health.starting("tables", "listing")
    async with running_probes(health) as port:
        assert (await ask(port)).startswith("HTTP/1.1 200 ")
        assert (await ask(port, "GET /readyz HTTP/1.1")).endswith("Not ready: tables\n")
        health.ok("tables")
        assert (await ask(port, "GET /readyz?x HTTP/1.1")).startswith("HTTP/1.1 200 ")
        assert (await ask(port, "GET /v1/status HTTP/1.1")).startswith("HTTP/1.1 404 ")
        assert (await ask(port, "POST /healthz HTTP/1.1")).startswith("HTTP/1.1 404 ")
        assert (await ask(port, "nonsense")).startswith("HTTP/1.1 404 ")


async def test_liveness_is_answered_while_six_hundred_others_hang_on_the_port() -> None:
    async with running_probes(Health(ManualClock())) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(600)]
        assert (await ask(port)).startswith("HTTP/1.1 200 ")
        dropped = [asyncio.create_task(reader.read()) for reader, _ in idle[: 600 - MAX_OPEN]]
        async with asyncio.timeout(5):
            await asyncio.gather(*dropped, return_exceptions=True)
        for _, writer in idle:
            writer.close()


async def test_a_probe_that_never_asks_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "PATIENCE_S", 0.05)
    async with running_probes(Health(ManualClock())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


@asynccontextmanager
async def running(app: meshhttp.App) -> AsyncIterator[int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, on_started=port.set_result))
    try:
        yield await asyncio.wait_for(port, 5)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshhttp, "FIRST_REQUEST_S", 0.05)
    async with running(make()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG"])
async def test_connections_that_ask_nothing_make_room(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Silent ones, and those that send a request byte by byte, the first or the second."""
    monkeypatch.setattr(meshhttp, "MAX_CONNECTIONS", 4)
    async with running(make()) as port:
        idle = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            if b"\r\n\r\n" in sent:
                await reader.readuntil(b"ok\n")
            idle.append(writer)
        for _ in range(3):
            assert (await ask(port, "GET /healthz HTTP/1.1\r\nConnection: close")).startswith("HTTP/1.1 200 ")
        for writer in idle:
            writer.close()


async def test_connections_that_wait_for_an_answer_make_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshhttp, "MAX_CONNECTIONS", 4)
    arrived, answer = asyncio.Semaphore(0), asyncio.Event()
    app = make_app("test", "1.0", Health(ManualClock()), Registry("mesh", process=False))

    @app.get("/wait")
    async def wait() -> str:
        arrived.release()
        await answer.wait()
        return "done"

    async with running(app) as port:
        waiting = []
        for _ in range(3):
            waiting.append(asyncio.create_task(ask(port, "GET /wait HTTP/1.1\r\nConnection: close")))
            await arrived.acquire()
        assert (await ask(port)).startswith("HTTP/1.1 503 ")
        answer.set()
        assert all('"done"' in text for text in await asyncio.gather(*waiting))


async def test_the_socket_is_for_our_user_only_and_replaces_what_was_left(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.sock"
    bind_unix(path).close()
    sock = bind_unix(path)
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(make(), sockets=[sock], on_started=started.set_result))
    try:
        assert await asyncio.wait_for(started, 5) == 0
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            assert (await http.get("/v1/secrets")).json() == ["plans"]
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("said", "minutes"),
    [
        (NotAdmitted(401, "it has expired"), 1),
        (NotAdmitted(403, "the role is gone"), 1),
        (NotAdmitted(503, "the Kubernetes API cannot be asked"), 10),
    ],
)
async def test_an_answer_that_goes_on_ends_when_its_reader_is_not_admitted_any_more(
    said: NotAdmitted, minutes: int
) -> None:
    clock, now = ManualClock(), list[NotAdmitted | None]([None])
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    app = make_app("test", "1.0", Health(clock), Registry("mesh", process=False))
    followers = Followers(1)

    async def told() -> AsyncIterator[bytes]:
        while True:
            yield await lines.get()

    @app.get("/v1/follow")
    async def follow() -> Response:
        return await followers.answer(told(), "text/plain")

    async def admit_now(_token: str, _path: str) -> NotAdmitted | None:
        return now[0]

    async with running(Guard(app, admit_now, clock=clock)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/follow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer leia\r\n\r\n")

        async def read_line(text: bytes) -> None:
            lines.put_nowait(text + b"\n")
            async with asyncio.timeout(5):
                assert (await reader.readuntil(text + b"\n")).endswith(text + b"\n")

        await read_line(b"first")
        clock.advance(60)
        await read_line(b"still admitted")
        now[0] = said
        for minute in range(1, minutes):
            clock.advance(60)
            await read_line(b"unsure %d" % minute)
        clock.advance(60)
        lines.put_nowait(b"secret\n")
        async with asyncio.timeout(5):
            assert b"secret" not in await reader.read()
        writer.close()
        now[0] = None
        async with asyncio.timeout(5):
            await (await followers.answer(_nothing(), "text/plain"))(_SCOPE, _never_asked, _taken)


_SCOPE = {"type": "http", "path": "/v1/follow", "asgi": {"spec_version": "2.4"}}


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _never_asked() -> MutableMapping[str, Any]:
    raise AssertionError("nothing is received")


async def _taken(_message: MutableMapping[str, Any]) -> None:
    return
