# SPDX-License-Identifier: Apache-2.0
"""An etcd behind the facade that says what a test tells it to, and a client's call without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import grpc

from kvstore.facade.connections import Connection, Connections
from kvstore.facade.grant import ClientLimits, Grant
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import ManualClock

STATE = b"cilium/state/"


def connection_for(limits: ClientLimits, clock: ManualClock) -> Connection:
    """A peer that may read everything below STATE."""
    grant = Grant("remote-south", prefixes=(STATE,))
    return Connections(limits, clock).find(grant, b"certificate", "remote-south", "192.0.2.1:4000")


def events(*revisions: int, size: int = 0) -> pb.WatchResponse:
    """One message with a change at each revision; of exactly `size` bytes, if that is given."""
    answer = pb.WatchResponse(header=header(revisions[-1]))
    for revision in revisions:
        changed = answer.events.add().kv
        changed.key, changed.mod_revision = STATE + b"%d" % revision, revision
    if size:
        answer.events[0].kv.value = b"x"
        answer.events[0].kv.value = b"x" * (size - answer.ByteSize() + 1)
        assert answer.ByteSize() == size
    return answer


def header(revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(cluster_id=7, revision=revision)


class FakeUpstream:
    """Takes the place of `kvstore.facade.upstream.Upstream`; each watch is created at once and told what `tell` says."""

    def __init__(self, revision: int = 1) -> None:
        self.header = header(revision)
        self.on_store_change: list[Callable[[], None]] = []
        self.asked: list[pb.RangeRequest] = []
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._told: dict[bytes, asyncio.Queue[pb.WatchResponse]] = {}

    def tell(self, key: bytes, answer: pb.WatchResponse) -> None:
        """The watch of this key hears this next."""
        self._told.setdefault(key, asyncio.Queue()).put_nowait(answer)

    def header_at(self, revision: int) -> pb.ResponseHeader:
        return header(revision)

    async def refresh(self) -> None:
        return

    async def range(self, request: bytes, timeout_s: float) -> bytes:
        self.asked.append(pb.RangeRequest.FromString(request))
        return await self.answer

    async def watch(self, request: pb.WatchCreateRequest) -> AsyncGenerator[tuple[bytes, pb.WatchResponse], None]:
        told = self._told.setdefault(request.key, asyncio.Queue())
        created = pb.WatchResponse(header=self.header, created=True)
        yield created.SerializeToString(), created
        while True:
            answer = await told.get()
            yield answer.SerializeToString(), answer


class Call:
    """A client's Watch or Range call as gRPC hands it to us."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent: list[pb.WatchResponse] = []
        self.status: tuple[grpc.StatusCode, str] | None = None

    def ask(self, **request: object) -> None:
        """The client sends this next."""
        self.requests.put_nowait(pb.WatchRequest(**request).SerializeToString())  # type: ignore[arg-type]

    async def read(self) -> bytes:
        return await self.requests.get()

    async def write(self, raw: bytes) -> None:
        self.sent.append(pb.WatchResponse.FromString(raw))

    async def send_initial_metadata(self, metadata: object) -> None:
        return

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        self.status = (code, text)

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: object) -> None:
        return
