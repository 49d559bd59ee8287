# SPDX-License-Identifier: Apache-2.0
"""The wire side of the cluster DNS: questions over UDP and TCP, answered from the zone."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final, cast

from dnslib import CNAME, EDNS0, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSError, DNSRecord

from lab.images.dns.zone import DOMAIN, TTL_S, DnsAnswer, DnsZone, Record

log = logging.getLogger(__name__)
PLAIN_LIMIT: Final = 512
EDNS_LIMIT: Final = 1232
IDLE_S: Final = 10.0


def reply(zone: DnsZone, question: bytes, *, limit: int | None, rng: random.Random) -> bytes | None:
    """The packet to send back; None for what is no question. Units: limit is the largest UDP answer, in bytes."""
    try:
        asked = DNSRecord.parse(question)
        name, kind = str(asked.q.qname), str(QTYPE[asked.q.qtype])
    except (DNSError, IndexError, UnicodeDecodeError):
        return None
    found = zone.answer(name, kind)
    answer = asked.reply(ra=1, aa=1)
    answer.header.rcode = RCODE.NXDOMAIN if found.code else RCODE.NOERROR
    _fill(answer, found, rng)
    sizes = [record.rclass for record in asked.ar if record.rtype == QTYPE.OPT]
    if sizes:
        answer.add_ar(EDNS0(udp_len=EDNS_LIMIT))
        limit = None if limit is None else max(limit, min(sizes[0], EDNS_LIMIT))
    packed = bytes(answer.pack())
    return bytes(answer.truncate().pack()) if limit is not None and len(packed) > limit else packed


def _fill(answer: DNSRecord, found: DnsAnswer, rng: random.Random) -> None:
    records = list(found.records)
    rng.shuffle(records)
    for record in records:
        answer.add_answer(RR(record.name, getattr(QTYPE, record.kind), ttl=TTL_S, rdata=_data(record)))
    if not records:
        times = (1, 7200, 1800, 86400, TTL_S)
        answer.add_auth(RR(DOMAIN, QTYPE.SOA, ttl=TTL_S, rdata=SOA(f"ns.dns.{DOMAIN}", f"hostmaster.{DOMAIN}", times)))


def _data(record: Record) -> A | CNAME | PTR | SRV:
    match record.kind:
        case "A":
            return A(record.data)
        case "SRV":
            priority, weight, port, target = record.data.split()
            return SRV(int(priority), int(weight), int(port), target)
        case "PTR":
            return PTR(record.data)
        case _:
            return CNAME(record.data)


class UdpServer(asyncio.DatagramProtocol):
    """Answers datagrams."""

    def __init__(self, zone: DnsZone) -> None:
        self._zone, self._rng = zone, random.Random()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        packet = reply(self._zone, data, limit=PLAIN_LIMIT, rng=self._rng)
        if packet and self._transport is not None:
            self._transport.sendto(packet, addr)


async def serve(zone: DnsZone, address: str, port: int) -> None:
    """Answer until cancelled."""
    rng = random.Random()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2))
                    question = await reader.readexactly(size)
                packet = reply(zone, question, limit=None, rng=rng)
                if packet is None:
                    return
                writer.write(len(packet).to_bytes(2) + packet)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: UdpServer(zone), local_addr=(address, port))
    try:
        async with await asyncio.start_server(converse, address, port) as tcp:
            log.info("dns is serving", extra={"path": f"{address}:{port}"})
            await tcp.serve_forever()
    finally:
        transport.close()
