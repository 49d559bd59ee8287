# SPDX-License-Identifier: Apache-2.0
"""DNS messages as the proxy reads them: as another implementation writes them, and whatever else may come."""

from __future__ import annotations

import struct

import pytest
from dnslib import EDNS0, RR, DNSRecord
from hypothesis import example, given
from hypothesis import strategies as st

from agent.answered_names import AnsweredAddress
from agent.dns.message import (
    LARGEST_UDP,
    REFUSED,
    DnsQuery,
    ForeignMessageError,
    MalformedMessageError,
    failure,
    format_error,
    forwarded,
    read_answer,
    read_query,
    released,
)

LABELS = st.lists(st.text("abcxyz019-_ABC", min_size=1, max_size=12), min_size=1, max_size=6)
ZONE = "www.x.io 30 IN CNAME a.x.io\na.x.io 300 IN CNAME b.y.io\nb.y.io 20 IN A 192.0.2.1\nb.y.io 10 IN A 192.0.2.2"
IDENT = 4711


def _query(name: str = "www.x.io", kind: str = "A") -> DnsQuery:
    return read_query(bytes(DNSRecord.question(name, kind).pack()))


def _answer(query: DnsQuery, zone: str) -> bytes:
    made = DNSRecord.parse(forwarded(query, IDENT, by_udp=True)).reply()
    made.add_answer(*RR.fromZone(zone))
    return bytes(made.pack())


@given(LABELS, st.sampled_from(["A", "AAAA", "TXT", "HTTPS"]), st.booleans())
def test_what_another_library_asks_is_read_and_asked_on(labels: list[str], kind: str, has_options: bool) -> None:
    name = ".".join(labels)
    question = DNSRecord.question(name, kind)
    if has_options:
        question.add_ar(EDNS0(udp_len=4096, flags="do"))
    query = read_query(bytes(question.pack()))
    assert (query.name, query.type_text, query.id) == (f"{name.lower()}.", kind, question.header.id)
    asked_on = DNSRecord.parse(forwarded(query, IDENT, by_udp=True))
    assert (str(asked_on.q.qname), asked_on.header.id, asked_on.header.rd) == (f"{name}.", IDENT, 1)
    assert [(r.rclass, r.ttl) for r in asked_on.ar] == ([(LARGEST_UDP, 0x8000)] if has_options else [])


def test_an_answer_leads_to_addresses_with_the_smallest_ttl_on_the_way() -> None:
    query = _query("WWW.x.io")
    others = "\nother.io 60 IN A 192.0.2.66\nx.io 60 IN AAAA 2001:db8::1"
    answer = read_answer(_answer(query, ZONE + others), query, IDENT)
    assert answer.addresses == (AnsweredAddress("192.0.2.1", 20), AnsweredAddress("192.0.2.2", 10))
    assert answer.aliases == ("a.x.io.", "b.y.io.")
    assert answer.types == ("CNAME", "A", "AAAA")


def test_aliases_that_lead_round_lead_to_what_is_on_the_way() -> None:
    query = _query("a.io")
    zone = "a.io 9 IN CNAME b.io\nb.io 8 IN CNAME a.io\nb.io 60 IN A 192.0.2.1"
    assert read_answer(_answer(query, zone), query, IDENT).addresses == (AnsweredAddress("192.0.2.1", 9),)


def test_an_answer_to_another_query_is_none() -> None:
    query = _query()
    right = _answer(query, ZONE)
    wrong = [struct.pack("!H", IDENT + 1) + right[2:], _answer(_query("www.x.iq"), ZONE), right[:2] + b"\1" + right[3:]]
    wrong += [_answer(_query(kind="AAAA"), ZONE), right[:11], b""]
    for data in wrong:
        with pytest.raises(ForeignMessageError):
            read_answer(data, query, IDENT)


def test_a_header_alone_says_that_there_is_none() -> None:
    query = _query()
    data = struct.pack("!6H", IDENT, 0x8183, 0, 0, 0, 0)
    assert read_answer(data, query, IDENT).rcode == 3
    assert DNSRecord.parse(released(data, query, 512)).header.rcode == 3
    with pytest.raises(ForeignMessageError):
        read_answer(struct.pack("!6H", IDENT, 0x8180, 0, 0, 0, 0), query, IDENT)


def test_what_is_released_has_the_clients_id_and_fits() -> None:
    query = _query()
    data = _answer(query, ZONE)
    whole, cut = (DNSRecord.parse(released(data, query, limit)) for limit in (512, 50))
    assert (whole.header.id, len(whole.rr), whole.header.tc) == (query.id, 4, 0)
    assert (cut.header.id, len(cut.rr), cut.header.tc, str(cut.q.qname)) == (query.id, 0, 1, "www.x.io.")
    refused = DNSRecord.parse(failure(query, REFUSED))
    assert (refused.header.id, refused.header.rcode, refused.header.qr) == (query.id, REFUSED, 1)


def test_bytes_that_no_host_name_has_are_escaped() -> None:
    packed = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\5a.b c\3\xffD\\\0\0\1\0\1"
    assert read_query(packed).name == "a\\.b\\032c.\\255d\\\\."


@given(st.binary(max_size=80))
@example(b"")
@example(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")
@example(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x41a\0\0\1\0\1")
@example(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1")
def test_anything_is_read_or_refused(tail: bytes) -> None:
    query = _query()
    for data in (tail, struct.pack("!6H", IDENT, 0, 1, 0, 0, 1) + tail):
        try:
            read_query(data)
        except MalformedMessageError:
            assert len(format_error(data)) in (0, 12)
    head = struct.pack("!6H", IDENT, 0x8180, 1, 3, 0, 0) + query.question
    try:
        read_answer(head + tail, query, IDENT)
    except MalformedMessageError:
        return
    assert len(tail) >= 33, "three records"


def test_a_name_that_is_compressed_forwards_is_refused() -> None:
    query = _query()
    head = struct.pack("!6H", IDENT, 0x8180, 1, 1, 0, 0) + query.question
    for target in (len(head), len(head) + 2, 2, 0x3FFF):
        record = struct.pack("!H", 0xC000 | target) + struct.pack("!HHIH", 1, 1, 60, 4) + b"\1\2\3\4"
        with pytest.raises(MalformedMessageError):
            read_answer(head + record, query, IDENT)


@pytest.mark.parametrize("steps", [127, 128])
def test_a_compressed_name_has_no_more_steps_than_a_name_has_labels(steps: int) -> None:
    query = _query()
    data = struct.pack("!6H", IDENT, 0x8180, 1, 2, 0, 0) + query.question
    start = len(data) + 12
    targets = [12, *range(start, start + 2 * (steps - 2), 2)]
    chain = b"".join(struct.pack("!H", 0xC000 | target) for target in targets)
    data += struct.pack("!HHHIH", 0xC00C, 16, 1, 60, len(chain)) + chain
    data += struct.pack("!HHHIH", 0xC000 | (start + len(chain) - 2), 1, 1, 60, 4) + b"\xc0\0\2\1"
    if steps <= 127:
        assert read_answer(data, query, IDENT).addresses == (AnsweredAddress("192.0.2.1", 60),)
    else:
        with pytest.raises(MalformedMessageError):
            read_answer(data, query, IDENT)
