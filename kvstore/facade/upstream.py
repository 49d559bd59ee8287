# SPDX-License-Identifier: Apache-2.0
"""The etcd behind the facade, as bytes: answers are passed on as they came, only their headers are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from kvstore.errors import Unavailable
from kvstore.etcd import EtcdStore, translate
from kvstore.methods import RANGE, WATCH
from kvstore.proto import rpc_pb2 as pb
from kvstore.watch_start import asked_from, without_earlier

HEADER_TAG: Final = 0x0A
REFRESH_KEY: Final = b"\0"


class Upstream:
    """One etcd. `header` is the newest seen of its one store; another store is told to `on_store_change`."""

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self._range: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = store.channel.unary_unary(RANGE)
        self._watch: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = store.channel.stream_stream(WATCH)
        self.header = pb.ResponseHeader()
        self.on_store_change: list[Callable[[], None]] = []

    async def range(self, request: bytes, timeout_s: float) -> bytes:
        """etcd's answer to a Range request; gRPC errors go through untouched."""
        answer = await self._range(request, timeout=timeout_s)
        self.note(range_header(answer))
        return answer

    async def refresh(self) -> None:
        """`header` has the revision of now.

        Raises: KvError if etcd does not answer.
        """
        request = pb.RangeRequest(key=REFRESH_KEY, count_only=True).SerializeToString()
        try:
            await self.range(request, self._store.options.call_timeout_s)
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.UsageError) as exc:
            raise translate(exc) from exc

    async def watch(self, request: pb.WatchCreateRequest) -> AsyncGenerator[tuple[bytes, pb.WatchResponse], None]:
        """The answers to one watch on a stream of its own, so its id there is 0: as bytes, and read.

        Raises: a KvError when the stream ends.
        """
        call, start = self._watch(), request.start_revision
        try:
            asked = pb.WatchRequest(create_request=request)
            asked.create_request.start_revision = asked_from(start)
            await call.write(asked.SerializeToString())
            while True:
                raw = await call.read()
                if not isinstance(raw, bytes):
                    raise Unavailable("upstream watch ended")
                answer = pb.WatchResponse.FromString(raw)
                self.note(answer.header)
                events = len(answer.events)
                if without_earlier(answer, start):
                    yield raw if len(answer.events) == events else answer.SerializeToString(), answer
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.UsageError) as exc:
            raise translate(exc) from exc
        finally:
            call.cancel()

    def note(self, header: pb.ResponseHeader) -> None:
        """Remember the newest header; answers may overtake each other, so an older one changes nothing."""
        if not header.cluster_id:
            return
        if self.header.cluster_id and header.cluster_id != self.header.cluster_id:
            self.header = header
            for callback in self.on_store_change:
                callback()
        elif header.revision >= self.header.revision:
            self.header = header

    def header_at(self, revision: int) -> pb.ResponseHeader:
        """A header of our own making, as etcd would send it at that revision."""
        header = pb.ResponseHeader()
        header.CopyFrom(self.header)
        header.revision = revision
        return header


def range_header(answer: bytes) -> pb.ResponseHeader:
    """The header of a Range answer, without reading the keys behind it."""
    try:
        if len(answer) > 1 and answer[0] == HEADER_TAG and answer[1] < 0x80:
            return pb.ResponseHeader.FromString(answer[2 : 2 + answer[1]])
        return pb.RangeResponse.FromString(answer).header
    except DecodeError as exc:
        raise Unavailable("upstream answer cannot be read") from exc
