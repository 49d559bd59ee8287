# SPDX-License-Identifier: Apache-2.0
"""Networks that overlap are found as a plain search finds them, and refused records wait by network within bounds."""

from __future__ import annotations

import random
from ipaddress import ip_network

from agent.mesh.blocks import Block, BlockIndex, block_of
from agent.mesh.held_records import Held
from meshmodel.keys import Kind


def test_overlaps_are_those_of_a_plain_search() -> None:
    """The twin: every network compared with every other by the standard library."""
    rng = random.Random(7)

    def draw() -> str:
        if rng.random() < 0.2:
            return str(
                ip_network((rng.getrandbits(4) << 124 | rng.getrandbits(3) << 60, rng.randint(0, 128)), strict=False)
            )
        return str(ip_network((rng.getrandbits(6) << 22 | rng.getrandbits(2) << 6, rng.randint(0, 32)), strict=False))

    index: BlockIndex[str] = BlockIndex()
    known: set[str] = set()
    for _ in range(600):
        text = draw()
        if known and rng.random() < 0.3:
            gone = rng.choice(sorted(known))
            known.discard(gone)
            assert index.discard(block_of(gone), gone)
        known.add(text)
        index.add(block_of(text), text)
        asked = ip_network(draw())
        expected = {k for k in known if ip_network(k).version == asked.version and ip_network(k).overlaps(asked)}
        assert {item for _, item in index.overlapping(block_of(str(asked)))} == expected
    assert len(index) == len(known)


def test_a_block_says_what_it_is() -> None:
    assert [str(block_of(t)) for t in ("10.1.2.3/8", "10.1.2.3", "fd00::1/64")] == [
        "10.0.0.0/8",
        "10.1.2.3",
        "fd00::/64",
    ]
    assert block_of("10.0.0.0/8").covers(Block(4, 32, 10 << 24))


def test_only_records_that_a_change_touches_are_judged_again() -> None:
    held = Held()
    for number in range(1000):
        held.put((Kind.IPS, b"%d" % number), b"{}", [block_of(f"10.{number >> 8}.{number & 255}.1")])
    assert held.waiting_for([block_of("10.2.7.0/24")]) == [(Kind.IPS, b"519")]
    assert held.waiting_for([block_of("172.18.0.0/16")]) == []
    assert held.pop((Kind.IPS, b"519")) == b"{}"
    assert held.waiting_for([block_of("10.2.7.0/24")]) == []


def test_refused_records_wait_within_bounds() -> None:
    held = Held(maximum_records=3, maximum_bytes=100)
    block = block_of("10.0.0.1")
    assert held.put((Kind.IPS, b"a"), b"x" * 40, [block])
    assert not held.put((Kind.IPS, b"b"), b"x" * 90, [block])
    assert held.put((Kind.IPS, b"a"), b"x" * 20, [block])
    assert held.put((Kind.SERVICES, b"b"), b"x" * 20, [block])
    assert held.put((Kind.IPS, b"c"), b"x" * 20, [block])
    assert not held.put((Kind.IPS, b"d"), b"x", [block])
    assert (len(held), held.size_bytes, held.overflowed) == (3, 63, {Kind.IPS})
    held.keep([Kind.IPS])
    assert (len(held), held.size_bytes) == (2, 42)
