# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from meshkit.clock import ManualClock
from meshkit.health import Health
from meshkit.http import bind, make_app, serve
from meshkit.metrics import Registry
from meshkit.rest import json_response


class Answer(msgspec.Struct, rename="kebab"):
    cluster_id: int


def make() -> tuple[FastAPI, Health]:
    health = Health(ManualClock())
    registry = Registry("mesh", process=False)
    registry.counter("answers_total", "answers").inc()
    app = make_app("test", "1.0", health, registry)

    @app.get("/v1/answer")
    async def answer() -> Response:
        return json_response(Answer(cluster_id=7))

    @app.get("/v1/endless")
    async def endless() -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            yield b"first\n"
            await asyncio.Event().wait()

        return StreamingResponse(stream())

    return app, health


@asynccontextmanager
async def running(app: FastAPI, host: str | list[str] = "127.0.0.1") -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(serve(app, host, 0, on_started=port.set_result))
    try:
        yield await asyncio.wait_for(port, 5), task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 8)


async def test_every_program_answers_health_readiness_and_metrics() -> None:
    app, health = make()
    async with running(app) as (port, _), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).status_code == 503
        health.starting("tables", "listing")
        assert (await client.get("/readyz")).text == "Not ready: tables\n"
        health.ok("tables")
        health.degraded("peer tion", "disconnected")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (200, "Ready\n")
        verbose = await client.get("/readyz?verbose")
        assert verbose.text == "[~] peer tion: disconnected\n[+] tables\nReady\n"
        metrics = await client.get("/metrics")
        assert "mesh_answers_total 1.0" in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain")
        assert (await client.get("/v1/answer")).json() == {"cluster-id": 7}
        assert "/v1/answer" in (await client.get("/openapi.json")).json()["paths"]


async def test_health_and_readiness_are_told_to_who_asks_for_the_head_alone() -> None:
    app, health = make()
    async with running(app) as (port, _), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        health.starting("tables", "listing")
        for path, code in (("/healthz", 200), ("/readyz", 503)):
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (code, b"")
        assert set((await client.get("/openapi.json")).json()["paths"]["/healthz"]) == {"get"}


async def test_it_listens_on_every_address_with_one_port() -> None:
    app, _ = make()
    async with running(app, ["127.0.0.1", "127.0.0.2"]) as (port, _), httpx.AsyncClient() as client:
        for address in ("127.0.0.1", "127.0.0.2"):
            assert (await client.get(f"http://{address}:{port}/healthz")).status_code == 200


async def test_cancelling_closes_the_port_and_touches_no_signal_handler() -> None:
    app, _ = make()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with running(app) as (port, _):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_an_endless_answer_does_not_keep_the_server_alive() -> None:
    app, _ = make()
    async with running(app) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await reader.readline()
    writer.close()


async def test_given_sockets_are_served_and_closed() -> None:
    app, _ = make()
    [sock] = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(serve(app, sockets=[sock], on_started=started.set_result))
    assert await asyncio.wait_for(started, 5) == port
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sock.fileno() == -1


def test_a_taken_address_is_named_and_nothing_stays_bound() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.3", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.3 port {port}"):
            bind(["127.0.0.1", "127.0.0.3"], port)
        for free in bind("127.0.0.1", port):
            free.close()
