# SPDX-License-Identifier: Apache-2.0
"""A grant never reaches past its prefix: every edge by hand, and random requests against a dumb twin."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.facade.connections import Connections, client_name
from kvstore.facade.grant import ClientLimits, Grant
from kvstore.facade.ranges import reads_whole_range
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import prefix_end
from meshkit.clock import ManualClock

STATE = b"cilium/state/"
CONFIG = b"cilium/cluster-config/north"
GRANT = Grant("remote-south", prefixes=(STATE, b"cilium/synced/north/"), keys=(CONFIG,))

# (key, range_end, covered): each refused row is one step beyond a covered one
EDGES: list[tuple[bytes, bytes, bool]] = [
    # a prefix
    (STATE, b"cilium/state0", True),
    (STATE, b"cilium/state/", False),  # an empty range is refused, as etcd's check does
    (STATE, b"cilium/state/\0", True),
    (STATE, b"cilium/state/\xff", True),
    (STATE, b"cilium/state/\xff\xff\xff", True),
    (STATE, b"cilium/state0\0", False),
    (STATE, b"cilium/state00", False),
    (STATE, b"cilium/state1", False),
    (STATE, b"cilium/statf", False),
    (STATE, b"cilium0", False),
    (STATE, b"\xff", False),
    (STATE, b"\0", False),
    (b"cilium/state", b"cilium/state0", False),
    (b"cilium/state", b"", False),
    (b"cilium/state.", b"cilium/state0", False),
    (b"cilium/stat", b"cilium/state0", False),
    (b"", b"cilium/state0", False),
    (b"\0", b"cilium/state0", False),
    (b"\0", b"\0", False),
    (b"", b"\0", False),
    # below a prefix
    (STATE + b"ip/", b"cilium/state/ip0", True),
    (STATE + b"ip/", b"cilium/state0", True),
    (STATE + b"ip/", b"cilium/state0\0", False),
    (STATE + b"ip/", b"\0", False),
    (STATE + b"\xff", b"cilium/state0", True),
    (STATE + b"z", STATE + b"a", False),
    (STATE + b"z", STATE + b"z", False),
    (STATE + b"z", STATE + b"z\0", True),
    # one key
    (STATE, b"", True),
    (STATE + b"\0", b"", True),
    (STATE + b"\xff", b"", True),
    (b"cilium/state0", b"", False),
    (b"Cilium/state/x", b"", False),
    # over two granted prefixes, with what lies between them
    (STATE, b"cilium/synced/north0", False),
    (b"cilium/synced/north/", b"cilium/synced/north0", True),
    (b"cilium/synced/north/", b"cilium/synced/north1", False),
    (b"cilium/synced/north", b"cilium/synced/north0", False),
    (b"cilium/synced/northern/", b"cilium/synced/northern0", False),
    # a single granted key is itself, as a key and as the range of one key
    (CONFIG, b"", True),
    (CONFIG, CONFIG + b"\0", True),
    (CONFIG, CONFIG, False),
    (CONFIG, CONFIG + b"\0\0", False),
    (CONFIG, CONFIG + b"\1", False),
    (CONFIG, CONFIG + b"0", False),
    (CONFIG, prefix_end(CONFIG), False),
    (CONFIG, b"\0", False),
    (CONFIG + b"\0", b"", False),
    (CONFIG + b"x", b"", False),
    (CONFIG[:-1], b"", False),
    (CONFIG[:-1], CONFIG + b"\0", False),
]


@pytest.mark.parametrize(("key", "end", "covered"), EDGES)
def test_each_edge_of_a_grant(key: bytes, end: bytes, *, covered: bool) -> None:
    assert GRANT.covers(key, end) is covered


def test_a_grant_of_nothing_covers_nothing_and_one_of_everything_all() -> None:
    for key, end, _ in EDGES:
        assert not Grant("nobody").covers(key, end)
    assert Grant("root", prefixes=(b"",)).covers(b"\0", b"\0")
    assert Grant("root", prefixes=(b"",)).covers(b"a", b"b")
    assert not Grant("peer", prefixes=(b"a",)).covers(b"a", b"\0")
    assert Grant("peer", prefixes=(b"\xff",)).covers(b"\xff", b"\0"), "nothing follows this prefix"
    assert not Grant("peer", prefixes=(b"\xff",)).covers(b"\xfe\xff", b"\0")


# ---- the twin: every key of a small world is looked at

WORLD = [bytes(parts) for length in range(1, 4) for parts in product(b"\0\1abc\xff", repeat=length)]
TEXTS = st.lists(st.sampled_from(list(b"\0ab\xff")), min_size=1, max_size=2).map(bytes)


def selects(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether etcd gives the key to a request for [start, end)."""
    if end == b"":
        return key == start
    return key >= start if end == b"\0" else start <= key < end


@given(st.lists(TEXTS, min_size=1, max_size=2), st.lists(TEXTS, max_size=1), TEXTS, st.just(b"") | TEXTS)
def test_a_covered_request_selects_granted_keys_only(
    prefixes: list[bytes], keys: list[bytes], start: bytes, end: bytes
) -> None:
    """If a grant covers a request, every key the request selects begins with a granted prefix or is a granted key."""
    if Grant("peer", tuple(prefixes), tuple(keys)).covers(start, end):
        for key in WORLD:
            if selects(key, start, end):
                assert key.startswith(tuple(prefixes)) or key in keys


@given(TEXTS, TEXTS, st.just(b"") | TEXTS)
def test_a_request_that_selects_granted_keys_only_is_covered(prefix: bytes, start: bytes, end: bytes) -> None:
    """With one prefix, a request is covered exactly if it selects something and nothing but keys below the prefix."""
    selected = [key for key in WORLD if selects(key, start, end)]
    expected = bool(selected) and all(key.startswith(prefix) for key in selected)
    assert Grant("peer", (prefix,)).covers(start, end) is expected


# ---- whose limits count


def test_peers_share_limits_by_name_and_agents_have_theirs_by_address() -> None:
    peer, agents = Grant("remote-south"), Grant("local-north", is_per_address=True)
    assert client_name(peer, "ipv4:10.0.0.1:4000") == client_name(peer, "ipv4:10.0.0.2:4000")
    assert client_name(agents, "ipv4:10.0.0.1:4000") == client_name(agents, "ipv4:10.0.0.1:5000")
    assert client_name(agents, "ipv4:10.0.0.1:4000") != client_name(agents, "ipv4:10.0.0.2:4000")
    assert client_name(agents, "ipv6:%5B::1%5D:4000") != client_name(agents, "ipv6:%5B::2%5D:4000")


def test_coming_back_does_not_fill_the_limits_again() -> None:
    clock = ManualClock()
    connections = Connections(ClientLimits(request_burst=10, requests_per_s=0.001), clock)
    first = connections.find(Grant("remote-south"), b"pem", "remote-south", "ipv4:10.0.0.1:4000")
    assert first.client.requests.reserve(10) == 0
    clock.advance(60)
    again = connections.find(Grant("remote-south"), b"pem", "remote-south", "ipv4:10.0.0.1:4001")
    assert again.client.requests.reserve(1) > 0
    clock.advance(3600)
    later = connections.find(Grant("remote-west"), b"pem", "remote-west", "ipv4:10.0.0.3:4001")
    assert later.client.requests.reserve(1) == 0
    fresh = connections.find(Grant("remote-south"), b"pem", "remote-south", "ipv4:10.0.0.1:4002")
    assert fresh.client is not first.client, "who stays away for an hour is forgotten"


@pytest.mark.parametrize(
    ("request_", "whole"),
    [
        (pb.RangeRequest(key=b"a"), False),
        (pb.RangeRequest(key=b"a", range_end=b"b"), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=10), False),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=-1), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=10, keys_only=True), False),
        (pb.RangeRequest(key=b"a", range_end=b"b", keys_only=True), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", count_only=True), False),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, sort_order=pb.RangeRequest.DESCEND), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, sort_order=pb.RangeRequest.ASCEND), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, min_mod_revision=5), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, max_mod_revision=5), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, min_create_revision=5), True),
        (pb.RangeRequest(key=b"a", range_end=b"b", limit=1, max_create_revision=5), True),
    ],
)
def test_a_limit_helps_only_when_etcd_may_stop_reading(request_: pb.RangeRequest, *, whole: bool) -> None:
    assert reads_whole_range(request_) is whole
