# SPDX-License-Identifier: Apache-2.0
"""Verdicts of health probes: streaks decide, and what an earlier agent found holds until the pod has answered otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backendhealth.asking import is_well
from agent.backendhealth.verdicts import FALL, RISE, HealthVerdicts, Pod, in_turn
from meshmodel.health_probe import HealthProbe
from meshmodel.names import ServiceName

NAME = ServiceName("t", "s")
POD, OTHER = Pod(NAME, "10.1.0.1"), Pod(NAME, "10.1.0.2")


@given(st.lists(st.booleans(), max_size=30))
def test_a_verdict_turns_after_so_many_answers_in_a_row(answers: list[bool]) -> None:
    """Law: the verdict is that of the newest run of FALL bad or RISE good answers; good before any."""
    verdicts = HealthVerdicts()
    for answer in answers:
        verdicts.note(POD, is_well=answer)
    text = "".join("+" if answer else "-" for answer in answers)
    is_failing = text.rfind("-" * FALL) > text.rfind("+" * RISE)
    assert verdicts.failing() == ({NAME: (POD.address,)} if is_failing else {})


def test_what_an_earlier_agent_found_holds_until_the_pod_answers() -> None:
    verdicts = HealthVerdicts()
    verdicts.restore([POD, OTHER])
    verdicts.note(POD, is_well=True)
    assert verdicts.failing() == {NAME: (POD.address, OTHER.address)}
    verdicts.note(POD, is_well=True)
    assert verdicts.failing() == {NAME: (OTHER.address,)}


def test_nothing_is_said_of_who_is_not_asked_any_more() -> None:
    verdicts = HealthVerdicts()
    for _ in range(FALL):
        verdicts.note(POD, is_well=False)
    verdicts.note(OTHER, is_well=False)
    verdicts.keep({OTHER})
    assert verdicts.failing() == {}
    verdicts.note(POD, is_well=False)
    assert verdicts.failing() == {}, "it begins anew"


def test_a_namespace_with_many_pods_takes_no_place_of_another_one() -> None:
    many = [Pod(ServiceName("a", f"s{n}"), "10.1.0.1") for n in range(9)]
    few = [Pod(ServiceName("b", "s"), f"10.1.0.{n}") for n in range(2)]
    assert in_turn(many + few, 6) == many[:4] + few
    assert in_turn(many + few, 20) == many + few


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(answer: bytes) -> Answering:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return serve


async def ask(answering: Answering, probe: HealthProbe) -> bool:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server:
        return await is_well("127.0.0.1", server.sockets[0].getsockname()[1], probe)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 399\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 500 no\r\n\r\n", False),
        (b"HTTP/1.1 2e2 OK\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"x" * 100_000, False),
        (b"", False),
    ],
)
def test_what_counts_as_an_answer_to_a_get(answer: bytes, expected: bool) -> None:
    assert asyncio.run(ask(saying(answer), HealthProbe("/healthz"))) is expected


def test_a_connection_that_is_accepted_is_enough_for_tcp_and_silence_is_not_for_http() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    assert asyncio.run(ask(silent, HealthProbe()))
    assert not asyncio.run(ask(silent, HealthProbe("/")))


def test_nobody_at_the_port_is_not_well() -> None:
    async def closed() -> bool:
        server = await asyncio.start_server(saying(b""), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await is_well("127.0.0.1", port, HealthProbe())

    assert not asyncio.run(closed())
