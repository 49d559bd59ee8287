# SPDX-License-Identifier: Apache-2.0
"""DNS messages as far as a proxy must understand them: one question, and the addresses an answer gives for it. Pure.

Source: RFC 1035 section 4, RFC 6891 (EDNS), RFC 2181 section 8 (TTL). Reading is strict, since a server must not see
anything else than what was judged: a query is one question and at most one OPT record, without compression; names are at
most 255 bytes; a compressed name goes back with each step, in no more steps than a name has labels; nothing follows the
last record.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from agent.answered_names import AnsweredAddress

LARGEST: Final = 65535
SMALLEST_UDP: Final = 512
"""What every client takes by UDP. Source: RFC 1035 section 2.3.4."""
LARGEST_UDP: Final = 1232
"""What is asked for by UDP at most, so that no answer comes in fragments, which no program can give to a socket."""
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
FORMERR: Final = 1
REFUSED: Final = 5
REFUSALS: Final = {"refused": REFUSED, "nxdomain": NXDOMAIN}
"""What a name that may not be asked for is answered with, as settings say it."""
TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR", 41: "OPT",
    64: "SVCB", 65: "HTTPS", 255: "ANY",
}  # fmt: skip
_A, _CNAME, _AAAA, _OPT, _IN = 1, 5, 28, 41, 1
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_QUESTION: Final = struct.Struct("!HH")
_ANSWER_BIT, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_KEPT: Final = 0x0130
"""Of a query's flags: recursion desired, authentic data, checking disabled."""
_RECURSION_AVAILABLE: Final = 0x0080
_LONGEST_NAME: Final = 255
_MOST_LABELS: Final = 127
_LONGEST_TTL_S: Final = (1 << 31) - 1
_PLAIN: Final = re.compile(rb"[-_0-9a-zA-Z]+")

WireName = tuple[bytes, ...]
"""Labels in lower case."""


class MalformedMessageError(ValueError):
    """The bytes are no DNS message of the expected kind."""


class ForeignMessageError(ValueError):
    """A message, but no answer to the query."""


class DnsQuery(NamedTuple):
    """`name` is canonical, with bytes that no host name has escaped as in zone files. `question`, `options`: as they came."""

    id: int
    flags: int
    name: str
    type: int
    question: bytes
    options: bytes
    udp_size: int
    labels: WireName

    @property
    def type_text(self) -> str:
        return TYPES.get(self.type, f"TYPE{self.type}")


class ServerAnswer(NamedTuple):
    """`addresses` are those that the records lead to from the name asked for; `aliases` the names on the way."""

    rcode: int
    addresses: tuple[AnsweredAddress, ...]
    aliases: tuple[str, ...]
    types: tuple[str, ...]


def read_query(data: bytes) -> DnsQuery:
    """Raises: MalformedMessageError."""
    ident, flags, *counts = _header(data)
    if flags & (_ANSWER_BIT | _OPCODE) or counts[:3] != [1, 0, 0] or counts[3] > 1:
        raise MalformedMessageError("no query of one question")
    labels, end = _name(data, _HEADER.size, may_point=False)
    kind, _ = _unpack(_QUESTION, data, end)
    end += _QUESTION.size
    options, size = b"", SMALLEST_UDP
    if counts[3]:
        if data[end : end + 1] != b"\0":
            raise MalformedMessageError("a record with a name in a query")
        record, size, _, length = _unpack(_RECORD, data, end + 1)
        if record != _OPT:
            raise MalformedMessageError("another record than OPT in a query")
        options = data[end : end + 1 + _RECORD.size + length]
        end += 1 + _RECORD.size + length
    if end != len(data):
        raise MalformedMessageError("the message does not end where its records do")
    question = data[_HEADER.size : len(data) - len(options)]
    return DnsQuery(ident, flags, text_of(labels), kind, question, options, max(size, SMALLEST_UDP), labels)


def forwarded(query: DnsQuery, ident: int, *, by_udp: bool) -> bytes:
    """The query as the server gets it, with an id of its own; by UDP it takes no more than `LARGEST_UDP`."""
    options = query.options
    if options and by_udp:
        options = options[:3] + struct.pack("!H", min(query.udp_size, LARGEST_UDP)) + options[5:]
    return _HEADER.pack(ident, query.flags & _KEPT, 1, 0, 0, 1 if options else 0) + query.question + options


def failure(query: DnsQuery, rcode: int) -> bytes:
    """An answer without records."""
    flags = _ANSWER_BIT | _RECURSION_AVAILABLE | (query.flags & _KEPT) | rcode
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question


def format_error(data: bytes) -> bytes:
    """The answer to what is no query that can be read; empty where none is due."""
    if len(data) < _HEADER.size or data[2] & 0x80:
        return b""
    (ident,) = struct.unpack_from("!H", data)
    return _HEADER.pack(ident, _ANSWER_BIT | FORMERR, 0, 0, 0, 0)


def read_answer(data: bytes, query: DnsQuery, ident: int) -> ServerAnswer:
    """What the server says. Raises: ForeignMessageError for what answers another query, MalformedMessageError.

    Some servers say that an answer was cut off, or that there is none, with a header alone.
    """
    if len(data) < _HEADER.size:
        raise ForeignMessageError
    found, flags, questions, answers, authorities, others = _header(data)
    if found != ident or not flags & _ANSWER_BIT or flags & _OPCODE:
        raise ForeignMessageError
    if len(data) == _HEADER.size and flags & (_RCODE | _TRUNCATED):
        return ServerAnswer(flags & _RCODE, (), (), ())
    if questions != 1:
        raise ForeignMessageError
    labels, end = _name(data, _HEADER.size, may_point=False)
    if labels != query.labels or data[end : end + _QUESTION.size] != query.question[-_QUESTION.size :]:
        raise ForeignMessageError
    end += _QUESTION.size
    hosts: list[tuple[WireName, AnsweredAddress]] = []
    aliases: dict[WireName, tuple[WireName, int]] = {}
    types: dict[str, None] = {}
    for record in tuple(_records(data, end, answers + authorities + others))[:answers]:
        types[TYPES.get(record.kind, f"TYPE{record.kind}")] = None
        if record.group != _IN:
            continue
        if record.kind == _CNAME:
            target, behind = _name(data, record.start)
            if behind != record.end:
                raise MalformedMessageError("a name does not fill its record")
            aliases.setdefault(record.owner, (target, record.ttl_s))
        elif record.kind in (_A, _AAAA):
            address = _address(record.kind, data[record.start : record.end])
            hosts.append((record.owner, AnsweredAddress(address, record.ttl_s)))
    ttls = _follow(labels, aliases)
    addresses = tuple(AnsweredAddress(h.address, min(h.ttl_s, ttls[owner])) for owner, h in hosts if owner in ttls)
    return ServerAnswer(flags & _RCODE, addresses, tuple(map(text_of, tuple(ttls)[1:])), tuple(types))


class _Record(NamedTuple):
    """`start`, `end`: where its data is."""

    owner: WireName
    kind: int
    group: int
    ttl_s: int
    start: int
    end: int


def _records(data: bytes, end: int, count: int) -> Iterator[_Record]:
    """So many records from the offset on, which end where the message does. Raises: MalformedMessageError."""
    for _ in range(count):
        owner, end = _name(data, end)
        kind, group, ttl_s, length = _unpack(_RECORD, data, end)
        start, end = end + _RECORD.size, end + _RECORD.size + length
        if end > len(data):
            raise MalformedMessageError("a record goes on behind the message")
        yield _Record(owner, kind, group, ttl_s if ttl_s <= _LONGEST_TTL_S else 0, start, end)
    if end != len(data):
        raise MalformedMessageError("the message does not end where its records do")


def released(data: bytes, query: DnsQuery, limit: int) -> bytes:
    """The answer as the client gets it: under the id of its query, and cut off if it takes no more than `limit` bytes."""
    if len(data) == _HEADER.size or len(data) > limit:
        flags = struct.unpack_from("!H", data, 2)[0] | (_TRUNCATED if len(data) > limit else 0)
        return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question
    return struct.pack("!H", query.id) + data[2:]


def text_of(labels: WireName) -> str:
    """The canonical name of labels."""
    return "".join(f"{_label(label)}." for label in labels) or "."


def _label(label: bytes) -> str:
    if _PLAIN.fullmatch(label):
        return label.decode()
    return "".join(
        f"\\{chr(byte)}" if byte in b".\\" else chr(byte) if 0x20 < byte < 0x7F else f"\\{byte:03d}" for byte in label
    )


def _header(data: bytes) -> tuple[int, ...]:
    if not _HEADER.size <= len(data) <= LARGEST:
        raise MalformedMessageError("a message of no length that one has")
    return _HEADER.unpack_from(data)


def _unpack(form: struct.Struct, data: bytes, offset: int) -> tuple[int, ...]:
    if offset + form.size > len(data):
        raise MalformedMessageError("the message ends within a record")
    return form.unpack_from(data, offset)


def _name(data: bytes, offset: int, *, may_point: bool = True) -> tuple[WireName, int]:
    """The labels of the name at the offset, and the offset behind it."""
    labels: list[bytes] = []
    size, steps, end, earliest = 1, 0, -1, offset
    while True:
        if offset >= len(data):
            raise MalformedMessageError("the message ends within a name")
        length = data[offset]
        if not length:
            return tuple(labels), offset + 1 if end < 0 else end
        if length < 0x40:
            size += length + 1
            label = data[offset + 1 : offset + 1 + length]
            if size > _LONGEST_NAME or len(label) != length:
                raise MalformedMessageError("a name is too long")
            labels.append(label.lower())
            offset += length + 1
        elif length >= 0xC0 and may_point and offset + 1 < len(data):
            end = offset + 2 if end < 0 else end
            offset = (length & 0x3F) << 8 | data[offset + 1]
            if not _HEADER.size <= offset < earliest:
                raise MalformedMessageError("a compressed name does not go back")
            earliest, steps = offset, steps + 1
            if steps > _MOST_LABELS:
                raise MalformedMessageError("a compressed name has more steps than a name has labels")
        else:
            raise MalformedMessageError("a label of no kind that is known")


def _follow(name: WireName, aliases: dict[WireName, tuple[WireName, int]]) -> dict[WireName, int]:
    """The names that the first one leads to, it first, with the smallest TTL on the way."""
    ttls = {name: _LONGEST_TTL_S}
    ttl_s = _LONGEST_TTL_S
    while name in aliases:
        name, own_s = aliases[name]
        ttl_s = min(ttl_s, own_s)
        if name in ttls:
            break
        ttls[name] = ttl_s
    return ttls


def _address(kind: int, data: bytes) -> str:
    try:
        return str(IPv4Address(data) if kind == _A else IPv6Address(data))
    except ValueError as exc:
        raise MalformedMessageError("an address of no length that one has") from exc
