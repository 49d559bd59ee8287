# SPDX-License-Identifier: Apache-2.0
"""The page at localhost and Hubble's API there, in front of a relay that is asked through an API server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

import httpx
import pytest

from clustermesh_cli.commands.hubble_forward import ForwardedError, ForwardedRelay
from clustermesh_cli.commands.page_proxy import PageServer
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.flow_sources import ClusterRelay
from clustermesh_cli.program_client import ProgramClient
from flows.document import json_line
from flows.proto import observer_pb2 as observer
from kube.errors import Unreachable
from kube.transport import LineStream, OpenAnswer, Query


class Parts:
    """An answer in parts."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)

    def read(self) -> bytes:
        return self.parts.pop(0) if self.parts else b""

    def close(self) -> None:
        self.parts = []


class Programs:
    """The API server's way to the relay; `asked` are the paths."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lines = b""

    def open_relay(self, path: str, silence_s: float) -> OpenAnswer:
        self.asked.append(path)
        if path == "ui/gone":
            raise Unreachable("GET", detail="refused")
        headers: Mapping[str, str] = {"content-type": "text/html", "server": "relay", "content-security-policy": "self"}
        return OpenAnswer(200, headers, cast(LineStream, Parts(b"<p>", b"page")))

    def follow_relay(self, path: str, query: Query, silence_s: float) -> Any:
        if not self.lines:
            raise Unreachable("GET", detail="refused")
        return Parts(self.lines[:30], self.lines[30:])


@pytest.fixture
def page() -> Iterator[PageServer]:
    with PageServer(cast(ProgramClient, Programs()), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_only_who_was_told_the_key_is_answered(page: PageServer) -> None:
    home = f"http://127.0.0.1:{page.server_port}/ui/"
    with httpx.Client() as stranger:
        assert stranger.get(home).status_code == 403
        assert stranger.get(home, params={"key": "guessed"}).status_code == 403
        assert stranger.get(home, headers={"cookie": "clustermesh-ui=guessed"}).status_code == 403
    with httpx.Client(follow_redirects=True) as browser:
        first = browser.get(f"{page.address}&view=flows")
        assert (first.status_code, first.text, first.headers["content-security-policy"]) == (200, "<p>page", "self")
        assert "key=" not in str(first.url), "the key leaves the address bar"
        assert browser.get(home, headers={"host": "evil.example"}).status_code == 403
        assert browser.post(home).status_code == 501
        assert browser.get(f"{home}gone").status_code == 502
    assert cast(Programs, page.programs).asked == ["ui/?view=flows", "ui/gone"]


async def test_hubbles_api_at_localhost_passes_on_what_the_relay_says_and_that_it_says_nothing() -> None:
    programs = Programs()
    relay = ForwardedRelay(ClusterRelay(cast(ProgramClient, programs)), ())
    with pytest.raises(ForwardedError, match="clustermesh-relay does not answer"):
        [answer async for answer in relay.flows(observer.GetFlowsRequest(), ())]
    programs.lines = b"".join(
        json_line(observer.GetFlowsResponse(node_name=f"north/n{n}")).encode() + b"\n" for n in range(600)
    )
    found = [answer.node_name async for answer in relay.flows(observer.GetFlowsRequest(), ())]
    assert found == [f"north/n{n}" for n in range(600)]


async def test_a_reader_that_leaves_ends_the_thread_that_read_for_it() -> None:
    programs = Programs()
    programs.lines = json_line(observer.GetFlowsResponse(node_name="north/n1")).encode() + b"\n"
    programs.lines *= 2000
    before = set(threading.enumerate())
    stream = ForwardedRelay(ClusterRelay(cast(ProgramClient, programs)), ()).flows(observer.GetFlowsRequest(), ())
    assert (await anext(stream)).node_name == "north/n1"
    await stream.aclose()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "flows of the relay":
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


def test_there_is_nothing_to_forward_without_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    from clustermesh_cli.commands import hubble_forward, page_proxy
    from clustermesh_cli.console import Console

    monkeypatch.setattr(ClusterRelay, "is_installed", lambda _self: False)
    programs = cast(ProgramClient, Programs())
    with pytest.raises(CommandError, match="enable --with-relay"):
        hubble_forward.forward(programs, 0, (), Console(plain=True))
    with pytest.raises(CommandError, match="enable --with-relay"):
        page_proxy.show_page(programs, 0, Console(plain=True), opens=False)
