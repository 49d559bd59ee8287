# SPDX-License-Identifier: Apache-2.0
"""The etcd client: one channel, typed calls, errors of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message as ProtobufMessage

from kvstore.errors import Oversized, Rejected, Stale, StoreChanged, Unavailable, classify
from kvstore.limiter import Limiter
from kvstore.link import StoreLink
from kvstore.methods import Methods
from kvstore.options import Options, Tls
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import (
    MAX_TXN_OPS,
    Batch,
    ChangeKind,
    Changes,
    Entry,
    Event,
    Page,
    Phase,
    Status,
    lease_by_key,
    prefix_end,
)
from kvstore.watch import Listed, Message, PrefixFollower, Probe
from kvstore.watch_start import asked_from, without_earlier
from meshkit.clock import Clock, SystemClock
from meshkit.errors import MeshError

STALE_RETRIES: Final = 20
STALE_DELAY_S: Final = 0.01
SMALLEST_PAGE: Final = 64
KINDS: Final = (ChangeKind.PUT, ChangeKind.DELETE)

RequestT = TypeVar("RequestT", bound=ProtobufMessage)
ResponseT = TypeVar("ResponseT", bound=ProtobufMessage)


class EtcdStore:
    """One etcd cluster as one user.

    The first store id seen is kept; another one raises StoreChanged, tells `on_store_change`, and is kept from then
    on. `read_tls` tells the certificates as they are now; it is asked after a call failed, and if they changed, what comes next
    uses a new connection with them. Streams that stand on the old one go on.
    """

    def __init__(
        self,
        targets: Sequence[str],
        tls: Tls | None = None,
        options: Options | None = None,
        *,
        limiter: Limiter | None = None,
        clock: Clock | None = None,
        read_tls: Callable[[], Tls | None] | None = None,
    ) -> None:
        self.options = options or Options()
        self.targets = tuple(targets)
        self._link = StoreLink(self.targets, tls, self.options)
        self._retired: list[StoreLink] = []
        self._read_tls, self._is_doubtful = read_tls, False
        self.on_store_change: list[Callable[[], None]] = []
        self.on_break: list[Callable[[], None]] = []
        self._limiter, self._clock = limiter or Limiter(), clock or SystemClock()
        self._cluster_id = 0

    @property
    def cluster_id(self) -> int:
        """The id of the store that answered last, 0 before the first answer."""
        return self._cluster_id

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel that calls use now."""
        return self._link.channel

    @property
    def methods(self) -> Methods:
        """The procedures that calls use now."""
        return self._fresh_link().methods

    async def close(self) -> None:
        """No call is under way and none can be made."""
        for link in (self._link, *self._retired):
            await link.close()

    # ---- keys

    async def get(self, key: bytes) -> Entry | None:
        """The key as it is now, None if it does not exist."""
        response = await self.call(self.methods.range, pb.RangeRequest(key=key))
        self._check_store(response.header)
        return next((Entry(kv.key, kv.value, kv.mod_revision, kv.lease) for kv in response.kvs), None)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """The key has the value; returns the revision."""
        response = await self.call(self.methods.put, pb.PutRequest(key=key, value=value, lease=lease))
        self._check_store(response.header)
        return response.header.revision

    async def create(self, key: bytes, value: bytes, *, lease: int = 0) -> bool:
        """True if the key did not exist and now has the value."""
        compare = pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)
        return await self._put_if(compare, key, value, lease)

    async def replace(self, key: bytes, value: bytes, *, mod_revision: int, lease: int = 0) -> bool:
        """True if the key was last changed at `mod_revision` and now has the value."""
        compare = pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=mod_revision)
        return await self._put_if(compare, key, value, lease)

    async def apply(self, ops: Mapping[bytes, bytes | None], *, lease: int | Mapping[bytes, int] = 0) -> int:
        """All of up to 128 puts and deletes (None) happened at the returned revision, or none did."""
        if len(ops) > MAX_TXN_OPS:
            raise Rejected(f"{len(ops)} operations in one transaction, {MAX_TXN_OPS} are allowed")
        lease_of = lease_by_key(ops, lease)
        request = pb.TxnRequest(success=[_operation(key, value, lease_of.get(key, 0)) for key, value in ops.items()])
        response = await self.call(self.methods.txn, request, weight=len(ops))
        self._check_store(response.header)
        return response.header.revision

    async def delete_prefix(self, prefix: bytes) -> int:
        """No key begins with the prefix; returns how many did."""
        request = pb.DeleteRangeRequest(key=prefix or b"\0", range_end=prefix_end(prefix))
        response = await self.call(self.methods.delete_range, request, timeout_s=self.options.list_timeout_s)
        self._check_store(response.header)
        return response.deleted

    async def changed_since(self, prefix: bytes, revision: int) -> Changes:
        """How many keys begin with the prefix, and up to a page of those last changed after the revision."""
        request = pb.RangeRequest(
            key=prefix or b"\0",
            range_end=prefix_end(prefix),
            min_mod_revision=revision + 1,
            limit=self.options.page_size,
        )
        answer = await self.call(self.methods.range, request, timeout_s=self.options.list_timeout_s)
        self._check_store(answer.header)
        entries = [Entry(kv.key, kv.value, kv.mod_revision, kv.lease) for kv in answer.kvs]
        return Changes(answer.count, entries, answer.header.revision, not answer.more)

    async def list(self, prefix: bytes) -> AsyncGenerator[Page, None]:
        """Every key that begins with the prefix, in order, as of one revision."""
        async for page in self._pages(prefix):
            entries = [Entry(kv.key, kv.value, kv.mod_revision, kv.lease) for kv in page.kvs]
            yield Page(entries, page.header.revision, page.header.cluster_id)

    async def list_and_watch(self, prefix: bytes, *, canary: bytes | None = None) -> AsyncGenerator[Batch, None]:
        """Everything under the prefix and every change to it, for ever; raises Denied only."""
        follower = PrefixFollower(self, prefix, canary, self.options, clock=self._clock)
        async for batch in follower.run():
            if batch.phase is Phase.INTERRUPTED:
                for callback in self.on_break:
                    callback()
            yield batch

    async def status(self) -> Status:
        """The store about itself."""
        answer = await self.call(self.methods.status, pb.StatusRequest())
        self._check_store(answer.header)
        header = answer.header
        return Status(
            answer.version,
            header.cluster_id,
            header.revision,
            answer.dbSize,
            tuple(answer.errors),
            answer.dbSizeInUse,
        )

    # ---- leases

    async def grant(self, ttl_s: float) -> int:
        """The id of a new lease."""
        response = await self.call(self.methods.grant, pb.LeaseGrantRequest(TTL=int(ttl_s)))
        self._check_store(response.header)
        return response.ID

    async def revoke(self, lease: int) -> None:
        """The lease and every key attached to it are gone."""
        await self.call(self.methods.revoke, pb.LeaseRevokeRequest(ID=lease))

    async def keep_alive(self, leases: Sequence[int]) -> Mapping[int, float]:
        """Each lease lives its full time again; its new time to live, 0 if it is gone."""
        lives: dict[int, float] = {}
        if not leases:
            return lives
        call = self.methods.keep_alive(timeout=self.options.call_timeout_s)
        try:
            for lease in leases:
                await call.write(pb.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
                if not isinstance(answer, pb.LeaseKeepAliveResponse):
                    raise Unavailable("keep-alive stream ended")
                self._check_store(answer.header)
                lives[answer.ID] = float(max(0, answer.TTL))
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.UsageError) as exc:
            self._is_doubtful = True
            raise translate(exc) from exc
        finally:
            call.cancel()
        return lives

    # ---- what list-and-watch needs

    async def probe(self, key: bytes) -> Probe:
        """Whether the key exists now."""
        response = await self.call(self.methods.range, pb.RangeRequest(key=key, keys_only=True))
        self._check_store(response.header)
        return Probe(bool(response.kvs), response.header.revision, response.header.cluster_id)

    async def listing(self, prefix: bytes) -> AsyncGenerator[Listed, None]:
        """The parts of a listing as of one revision."""
        async for page in self._pages(prefix):
            events = [Event(ChangeKind.PUT, kv.key, kv.value, kv.mod_revision) for kv in page.kvs]
            yield Listed(events, page.header.revision, page.header.cluster_id)

    async def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncGenerator[Message, None]:
        """The answers of one watch; raises a KvError when the stream ends."""
        request = pb.WatchCreateRequest(
            key=key or b"\0", range_end=range_end, start_revision=asked_from(start_revision), progress_notify=True
        )
        with self._fresh_link().stream() as methods:
            async with aclosing(self._answers(methods, request)) as answers:
                async for answer in answers:
                    if without_earlier(answer, start_revision):
                        yield _message(answer)

    async def _answers(
        self, methods: Methods, request: pb.WatchCreateRequest
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        call = methods.watch()
        try:
            await call.write(pb.WatchRequest(create_request=request))
            while True:
                answer = await call.read()
                if not isinstance(answer, pb.WatchResponse):
                    raise Unavailable("watch stream ended")
                if answer.created and not answer.canceled:
                    self._check_store(answer.header)
                yield answer
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.UsageError) as exc:
            self._is_doubtful = True
            raise translate(exc) from exc
        finally:
            call.cancel()

    # ---- calls

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        weight: float = 1.0,
        timeout_s: float | None = None,
    ) -> ResponseT:
        """The answer to one request; repeated while users or roles are being edited, as nothing was applied then."""
        await self._limiter.take(weight)
        for attempt in range(STALE_RETRIES):
            try:
                return await method(request, timeout=timeout_s or self.options.call_timeout_s)
            except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.UsageError) as exc:
                error = translate(exc)
                self._is_doubtful = self._is_doubtful or isinstance(error, Unavailable)
                if not isinstance(error, Stale) or attempt == STALE_RETRIES - 1:
                    raise error from exc
            await self._clock.sleep(STALE_DELAY_S)
        raise AssertionError  # the last attempt returned or raised

    def _fresh_link(self) -> StoreLink:
        """The present link, or after a failed call a new one if the certificates have changed since the present one was made."""
        if self._is_doubtful and self._read_tls is not None:
            try:
                tls = self._read_tls()
            except Rejected:  # not readable at this moment: what is there may still do
                return self._link
            self._is_doubtful = False
            if tls != self._link.tls:
                self._retired = [link for link in self._retired if not link.is_closed]
                self._retired.append(self._link)
                self._link.retire()
                self._link = StoreLink(self.targets, tls, self.options)
        return self._link

    def _check_store(self, header: pb.ResponseHeader) -> None:
        if not header.cluster_id:
            raise Unavailable("invalid etcd response: no cluster id")
        if self._cluster_id in (0, header.cluster_id):
            self._cluster_id = header.cluster_id
            return
        before, self._cluster_id = self._cluster_id, header.cluster_id
        for callback in self.on_store_change:
            callback()
        raise StoreChanged(f"etcd cluster ID has changed from {before:x} to {header.cluster_id:x}")

    async def _put_if(self, compare: pb.Compare, key: bytes, value: bytes, lease: int) -> bool:
        request = pb.TxnRequest(compare=[compare], success=[_operation(key, value, lease)])
        try:
            response = await self.call(self.methods.txn, request)
        except Unavailable:
            # it may have happened: only what is there now can tell
            entry = await self.get(key)
            if entry is None:
                raise
            return entry.value == value and entry.lease == lease
        self._check_store(response.header)
        return response.succeeded

    async def _pages(self, prefix: bytes) -> AsyncGenerator[pb.RangeResponse, None]:
        key, size, revision = prefix or b"\0", self.options.page_size, 0
        request = pb.RangeRequest(key=key, range_end=prefix_end(prefix))
        while True:
            request.key, request.limit, request.revision = key, size, revision
            try:
                response = await self.call(self.methods.range, request, timeout_s=self.options.list_timeout_s)
            except Oversized:
                if size <= SMALLEST_PAGE:
                    raise
                size //= 4
                continue
            self._check_store(response.header)
            # every answer carries the newest revision in its header; the listing is as of the first one
            revision = revision or response.header.revision
            response.header.revision = revision
            yield response
            if not response.more:
                return
            key = response.kvs[-1].key + b"\0"


def translate(exc: BaseException) -> MeshError:
    """Our error for one of gRPC's; a cancellation of our own task goes on as such."""
    if isinstance(exc, grpc.aio.AioRpcError):
        return classify(exc.code(), exc.details() or "")
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise exc
        return Unavailable("the channel was closed")  # gRPC cancels what waits on a closed channel
    return Unavailable(str(exc) or type(exc).__name__)


def _operation(key: bytes, value: bytes | None, lease: int) -> pb.RequestOp:
    if value is None:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def _message(answer: pb.WatchResponse) -> Message:
    return Message(
        answer.created,
        answer.canceled,
        answer.compact_revision,
        answer.cancel_reason,
        answer.header.cluster_id,
        answer.header.revision,
        [Event(KINDS[event.type], event.kv.key, event.kv.value, event.kv.mod_revision) for event in answer.events],
    )
