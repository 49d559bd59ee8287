# SPDX-License-Identifier: Apache-2.0
"""Queries by UDP: a server that floods the proxy with what answers nothing keeps nobody else from being served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

from dnslib import DNSRecord

from agent.dns.datagrams import DatagramProxy
from agent.dns.judge import Count, Judge
from agent.dns.link import AgentLink
from meshpolicy.dns_name import EVERY_NAME

PORT, FLOOD = 14053, 150
_TURNS = 50


async def test_others_have_their_turn_while_a_server_floods_the_proxy() -> None:
    judge = Judge(AgentLink(lambda: None, time.monotonic, time.time_ns), time.time_ns)
    judge.rules = {PORT: frozenset((EVERY_NAME,))}
    with contextlib.ExitStack() as stack:
        server, answering = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        asked = bytes(DNSRecord.question("shop.example").pack())
        DatagramProxy(judge, answering).take(asked, ("127.0.0.1", 40000), server.getsockname(), PORT)
        data, proxy = server.recvfrom(512)
        (ident,) = struct.unpack_from("!H", data)
        for _ in range(FLOOD):
            server.sendto(struct.pack("!6H", ident ^ 1, 0x8180, 1, 0, 0, 0), proxy)
        server.sendto(struct.pack("!6H", ident, 0x8183, 0, 0, 0, 0), proxy)
        heard = list[int]()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            heard.append(judge.counts[Count.FOREIGN_ANSWER])
        assert heard[-1] == FLOOD
        assert len(set(heard) - {0, FLOOD}) >= 2, "it is read in turns"
