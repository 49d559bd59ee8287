# SPDX-License-Identifier: Apache-2.0
"""Small decisions of the store package that need no store."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import (
    Compacted,
    Denied,
    KvError,
    LeaseLost,
    NoSpace,
    Oversized,
    Rejected,
    Stale,
    Unavailable,
    classify,
)
from kvstore.facade.watcher import id_suffix
from kvstore.limiter import Limiter
from kvstore.memoryserver import is_inside
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import prefix_end
from kvstore.version import holds_roles
from meshkit.clock import ManualClock
from meshkit.errors import PermanentError, TransientError

Code = grpc.StatusCode

KEYS = st.binary(min_size=1, max_size=4)
PARTS = st.lists(st.sampled_from([b"a", b"b", b"/", b"\xff", b"\0"]), min_size=1, max_size=4).map(b"".join)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (Code.UNAVAILABLE, "connection refused", Unavailable),
        (Code.INTERNAL, "Stream removed", Unavailable),
        (Code.UNKNOWN, "No status received", Unavailable),
        (Code.DEADLINE_EXCEEDED, "", Unavailable),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Denied),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Denied),
        (Code.UNKNOWN, "auth: permission denied", Denied),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Stale),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Compacted),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", NoSpace),
        (Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5 vs. 4)", Oversized),
        (Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5 vs. 4)", Rejected),
        (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", Rejected),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Unavailable),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", Rejected),
        (Code.FAILED_PRECONDITION, "etcdserver: role name already exists", Rejected),
        (Code.UNIMPLEMENTED, "", Rejected),
    ],
)
def test_every_answer_of_etcd_has_its_error(code: grpc.StatusCode, text: str, kind: type[Exception]) -> None:
    assert type(classify(code, text)) is kind


def test_errors_say_whether_trying_again_helps() -> None:
    for kind in (KvError, Unavailable, Stale, Compacted, LeaseLost, NoSpace, Oversized):
        assert issubclass(kind, TransientError)
    for permanent in (Denied, Rejected):
        assert issubclass(permanent, PermanentError)
    assert "0x" not in str(classify(Code.UNAVAILABLE, "x" * 10_000))
    assert len(str(classify(Code.UNAVAILABLE, "x" * 10_000))) < 300


@given(PARTS, PARTS)
def test_prefix_end_bounds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    """A key is in [prefix, prefix_end(prefix)) if and only if it begins with the prefix."""
    assert is_inside(key, prefix, prefix_end(prefix)) == key.startswith(prefix)


@given(st.integers(min_value=-1, max_value=(1 << 63) - 1), st.integers(min_value=0, max_value=1 << 62))
def test_a_watch_id_is_put_behind_an_answer_by_its_bytes(watch_id: int, revision: int) -> None:
    """Appending the suffix to a serialized answer sets its watch id and changes nothing else."""
    answer = pb.WatchResponse(header=pb.ResponseHeader(cluster_id=7, revision=revision))
    read = pb.WatchResponse.FromString(answer.SerializeToString() + id_suffix(watch_id))
    assert read.watch_id == watch_id
    assert read.header == answer.header


async def test_a_limiter_lets_a_burst_through_and_then_the_rate() -> None:
    clock = ManualClock()
    limiter = Limiter(rate=10, burst=20, clock=clock)
    await limiter.take(20)
    assert limiter.reserve(5) == pytest.approx(0.5)
    waiting = asyncio.ensure_future(limiter.take(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(1.0)
    await waiting
    clock.advance(100)
    assert limiter.reserve(20) == 0, "never more saved up than the burst"
    assert limiter.reserve(1) == pytest.approx(0.1)


async def test_a_limiter_without_a_rate_never_waits() -> None:
    clock = ManualClock()
    limiter = Limiter(clock=clock)
    assert math.isinf(limiter.rate)
    await limiter.take(1e9)
    assert clock.next_deadline is None


@pytest.mark.parametrize(
    ("version", "holds"),
    [
        ("3.4.23", False),
        ("3.4.99", False),
        ("3.5.32", False),
        ("3.5.33", True),
        ("3.6.13", False),
        ("3.6.14", True),
        ("3.7.0-rc.1", False),
        ("3.7.1", True),
        ("3.8.0", True),
        ("4.0.0", True),
        ("", False),
        ("memory", False),
    ],
)
def test_only_releases_with_all_fixes_hold_their_roles(version: str, *, holds: bool) -> None:
    assert holds_roles(version) is holds
