# SPDX-License-Identifier: Apache-2.0
"""A small authoritative DNS server with a fixed zone, which can also answer as servers must not."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from enum import Enum, auto

from dnslib import QTYPE, RR, DNSError, DNSRecord

ZONE = """
google.com. 60 IN A 203.0.113.7
www.example.com. 30 IN CNAME web.example.com.
web.example.com. 300 IN CNAME host.example.net.
host.example.net. 20 IN A 203.0.113.8
host.example.net. 10 IN AAAA 2001:db8::8
github.com. 60 IN A 203.0.113.9
host.example.com. 60 IN A 203.0.113.10
empty.example.com. 60 IN TXT "x"
"""
MANY = "many.example.com."
"""A name with more addresses than fit a datagram."""
MANY_ADDRESSES = [f"198.51.{n // 250}.{n % 250}" for n in range(1000)]


class Forgery(Enum):
    """What is wrong with the answers by UDP, before the right one is sent (or instead of it)."""

    NONE = auto()
    OTHER_ID = auto()
    OTHER_NAME = auto()
    LOOP = auto()
    CUT = auto()
    OTHER_OWNER = auto()


class NameServer:
    """Sockets of the namespace that it is made in.

    `asked`: (client address, name as it came) of each question; `marks`: (source port, id) of those by UDP. `closes`: each
    connection after one answer.
    """

    def __init__(self, forgery: Forgery = Forgery.NONE, zone: str = ZONE, address: str = "") -> None:
        self.forgery, self.asked = forgery, list[tuple[str, str]]()
        self.marks: list[tuple[int, int]] = []
        self.closes = False
        self._records = RR.fromZone(zone)
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind((address, 53))
        self._streams = socket.create_server((address, 53))
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Until the end of the block."""
        threads = [threading.Thread(target=serve) for serve in (self._serve_datagrams, self._serve_streams)]
        for made in (self._datagrams, self._streams):
            made.settimeout(0.1)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(5)
            self._datagrams.close()
            self._streams.close()

    def _serve_datagrams(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, client = self._datagrams.recvfrom(65535)
                self.marks.append((client[1], int.from_bytes(data[:2], "big")))
                for packet in self._forged(data, client[0]):
                    self._datagrams.sendto(packet, client)

    def _serve_streams(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                made, client = self._streams.accept()
                threading.Thread(target=self._serve_stream, args=(made, client[0]), daemon=True).start()

    def _serve_stream(self, made: socket.socket, client: str) -> None:
        made.settimeout(5)
        with made, contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack("!H", _exactly(made, 2))
                packed = self._answer(_exactly(made, length), client).pack()
                made.sendall(struct.pack("!H", len(packed)) + packed)
                if self.closes:
                    return

    def _answer(self, data: bytes, client: str) -> DNSRecord:
        asked = DNSRecord.parse(data)
        name, kind = str(asked.q.qname), QTYPE[asked.q.qtype]
        self.asked.append((client, name))
        answer = asked.reply()
        if name.lower() == MANY:
            answer.add_answer(*RR.fromZone("\n".join(f"{name} 60 IN A {a}" for a in MANY_ADDRESSES)))
            return answer
        owner = name.lower()
        for _ in range(4):
            found = [r for r in self._records if str(r.rname) == owner and QTYPE[r.rtype] in (kind, "CNAME")]
            answer.add_answer(*found)
            aliases = [str(r.rdata) for r in found if QTYPE[r.rtype] == "CNAME"]
            if not aliases:
                break
            owner = aliases[0]
        if not answer.rr and not any(str(r.rname) == name.lower() for r in self._records):
            answer.header.rcode = 3
        return answer

    def _forged(self, data: bytes, client: str) -> list[bytes]:
        try:
            answer = self._answer(data, client)
        except (DNSError, IndexError, UnicodeDecodeError):
            return []
        size = next((r.rclass for r in answer.ar if r.rtype == QTYPE.OPT), 512)
        asked = DNSRecord.parse(data)
        size = next((r.rclass for r in asked.ar if r.rtype == QTYPE.OPT), size)
        packed = bytes(answer.pack())
        right = packed if len(packed) <= size else bytes(answer.truncate().pack())
        match self.forgery:
            case Forgery.OTHER_ID:
                return [struct.pack("!H", (answer.header.id + n) & 0xFFFF) + right[2:] for n in (1, 2)] + [right]
            case Forgery.OTHER_NAME:
                other = DNSRecord.question("evil.example.com").reply()
                other.header.id = answer.header.id
                other.add_answer(*RR.fromZone("evil.example.com. 60 IN A 192.0.2.66"))
                return [bytes(other.pack()), right]
            case Forgery.OTHER_OWNER:
                answer.add_answer(*RR.fromZone("internal.example.com. 60 IN A 192.0.2.66"))
                return [bytes(answer.pack())]
            case Forgery.LOOP:
                return [right[:-16] + struct.pack("!HHHIH", 0xC000 | (len(right) - 16), 1, 1, 60, 4) + b"\1\2\3\4"]
            case Forgery.CUT:
                return [right[:-2]]
            case Forgery.NONE:
                return [right]


def _exactly(made: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = made.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def main() -> None:
    """`python -m tests.support.name_server ADDRESS ZONE`: serves until its input is closed."""
    _, address, zone = sys.argv
    with NameServer(zone=zone, address=address).running():
        print("serving", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
