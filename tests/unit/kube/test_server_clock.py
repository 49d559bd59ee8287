# SPDX-License-Identifier: Apache-2.0
"""What the clock of an API server shows, as its answers say, and when certificates begin by it."""

from __future__ import annotations

import socket
from email.utils import formatdate

import pytest

from kube.client import KubeClient
from kube.server_clock import behind_s, clock_notice, read_date, server_wall_s
from tests.unit.kube.kube_script import Request, ScriptedServer, Step

NOW = 1_800_000_000.0


def dated(*headers: str, code: int = 200) -> Step:
    def step(_request: Request, connection: socket.socket) -> None:
        lines = "".join(f"{header}\r\n" for header in headers)
        connection.sendall(f"HTTP/1.1 {code} X\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode())

    return step


@pytest.mark.parametrize("code", [200, 401, 403])
def test_the_date_of_any_answer_counts(server: ScriptedServer, client: KubeClient, code: int) -> None:
    server.steps = [dated(f"Date: {formatdate(NOW, usegmt=True)}", code=code)]
    assert server_wall_s(client) == NOW
    assert server.requests[0].path == "/version"


@pytest.mark.parametrize("headers", [(), ("Date: yesterday",), ("Date: ",)])
def test_who_does_not_say_is_taken_to_agree(
    server: ScriptedServer, client: KubeClient, headers: tuple[str, ...]
) -> None:
    server.steps = [dated(*headers)] * 3
    assert (server_wall_s(client), behind_s(client, NOW), clock_notice(client, NOW)) == (None, 0.0, "")


def test_a_server_that_is_away_is_taken_to_agree(client: KubeClient) -> None:
    assert behind_s(client, NOW) == 0.0  # its answers are all refusals without a date


@pytest.mark.parametrize(("ahead_s", "word"), [(0.0, ""), (29.0, ""), (600.0, "ahead of"), (-600.0, "behind")])
def test_how_far_the_server_is_behind_is_known_and_a_difference_is_told(
    server: ScriptedServer, client: KubeClient, ahead_s: float, word: str
) -> None:
    server.steps = [dated(f"Date: {formatdate(NOW - ahead_s, usegmt=True)}")] * 2
    assert behind_s(client, NOW) == max(ahead_s, 0.0)
    notice = clock_notice(client, NOW)
    assert (f"{abs(ahead_s):.0f} s {word} the API server's" in notice) == bool(word)
    assert bool(notice) == bool(word)


def test_every_form_of_a_date_is_read() -> None:
    """Source: RFC 9110, section 5.6.7, which has these examples."""
    texts = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
    assert {read_date(text) for text in texts} == {784111777.0}
