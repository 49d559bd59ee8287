# SPDX-License-Identifier: Apache-2.0
"""The store itself, read only: what stands under a prefix, one key, and changes as they come. For people, not for peers.

Values go out as they are, in base64; who asks decodes them. Only the mesh's own keys are shown.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from fastapi import Query, Response

from clustermesh_apiserver.apiserver import Apiserver
from kvstore.errors import Denied, KvError, Rejected
from kvstore.store import Batch, ChangeKind, Entry, Phase, Store
from meshapi.apiserver import StoreEntry, StoreEvent, StorePage
from meshkit.followers import Followers
from meshkit.rest import NotAnswered, Rest
from meshmodel import keys, private_keys

ROOTS: Final = (keys.ROOT, private_keys.ROOT)
DEFAULT_PREFIX: Final = keys.ROOT.decode()
MAX_ENTRIES: Final = 1000
MAX_WATCHES: Final = 16
ALIVE_S: Final = 10.0
_ERRORS: Final = {400: "not a key of the mesh", 503: "the store is not open or does not answer"}


def add_routes(rest: Rest, apiserver: Apiserver) -> None:
    """/v1/kv, /v1/kv/get and /v1/kv/watch."""
    watches = Followers(MAX_WATCHES)

    @rest.get("/v1/kv", StorePage, tag="store", errors=_ERRORS)
    async def list_keys(
        prefix: str = DEFAULT_PREFIX, after: str = "", limit: int = Query(MAX_ENTRIES, ge=1, le=MAX_ENTRIES),
        keys_only: bool = False,
    ) -> StorePage:  # fmt: skip
        """Keys under a prefix in order, from the one after `after`; `more` says that there are others."""
        store = _store(apiserver, prefix)
        try:
            entries, more = await _list(store, prefix.encode(), after.encode(), limit)
        except (KvError, Denied, Rejected) as exc:
            raise NotAnswered(503, str(exc)) from exc
        return StorePage(entries=[_entry(entry, keys_only=keys_only) for entry in entries], more=more)

    @rest.get("/v1/kv/get", StoreEntry, tag="store", errors={**_ERRORS, 404: "no such key"})
    async def get_key(key: str) -> StoreEntry:
        """One key."""
        store = _store(apiserver, key)
        try:
            entry = await store.get(key.encode())
        except (KvError, Denied, Rejected) as exc:
            raise NotAnswered(503, str(exc)) from exc
        if entry is None:
            raise NotAnswered(404, f"{key}: no such key")
        return _entry(entry)

    @rest.get_stream(
        "/v1/kv/watch", StoreEvent, "text/event-stream", tag="store", errors={**_ERRORS, 429: "too many watches"}
    )
    async def watch_keys(prefix: str = DEFAULT_PREFIX) -> Response:
        """Everything under a prefix and then every change, one server-sent event each."""
        store = _store(apiserver, prefix)
        return await watches.answer(_events(store, prefix.encode()), "text/event-stream")


def _store(apiserver: Apiserver, prefix: str) -> Store:
    """The open store. Raises: NotAnswered while there is none, or for keys that are not the mesh's."""
    if apiserver.publication is None:
        raise NotAnswered(503, "the store is not open")
    if not prefix.encode().startswith(ROOTS):
        roots = " or ".join(root.decode() for root in ROOTS)
        raise NotAnswered(400, f"{prefix!r}: keys of the mesh begin with {roots}")
    return apiserver.publication.store.client


async def _list(store: Store, prefix: bytes, after: bytes, limit: int) -> tuple[Sequence[Entry], bool]:
    """The next entries after a key, and whether there are more."""
    found: list[Entry] = []
    async with aclosing(store.list(prefix)) as pages:
        async for page in pages:
            found += [entry for entry in page.entries if entry.key > after]
            if len(found) > limit:
                return found[:limit], True
    return found, False


async def _events(store: Store, prefix: bytes) -> AsyncGenerator[bytes, None]:
    """Changes as text; a comment now and then, so that a reader who went away is noticed."""
    stream = store.list_and_watch(prefix)
    following, is_listing = asyncio.create_task(_next(stream)), True
    try:
        while True:
            if not (await asyncio.wait([following], timeout=ALIVE_S))[0]:
                yield b": alive\n\n"
                continue
            batch = following.result()
            if batch is None:
                return
            is_listing = batch.phase is Phase.LISTING or (is_listing and batch.phase is Phase.CHANGES)
            for message in _messages(batch, is_listing=is_listing):
                yield b"data: " + msgspec.json.encode(message) + b"\n\n"
            following = asyncio.create_task(_next(stream))
    finally:
        following.cancel()
        await asyncio.wait([following])
        await stream.aclose()


async def _next(stream: AsyncGenerator[Batch, None]) -> Batch | None:
    try:
        return await anext(stream, None)
    except (KvError, Denied):
        return None


def _messages(batch: Batch, *, is_listing: bool) -> Iterable[StoreEvent]:
    for event in batch.events:
        if event.kind is ChangeKind.DELETE:
            yield StoreEvent(event="delete", key=_text(event.key), revision=event.revision)
        else:
            entry = _entry(Entry(event.key, event.value, event.revision))
            yield StoreEvent(
                event="listed" if is_listing else "put",
                key=entry.key,
                revision=entry.revision,
                bytes=entry.bytes,
                value=entry.value,
            )
    if batch.phase in (Phase.LISTED, Phase.INTERRUPTED):
        yield StoreEvent(event=batch.phase.value, revision=batch.revision)


def _entry(entry: Entry, *, keys_only: bool = False) -> StoreEntry:
    return StoreEntry(
        key=_text(entry.key),
        revision=entry.revision,
        bytes=len(entry.value),
        lease=f"{entry.lease:x}" if entry.lease else "",
        value=None if keys_only else base64.b64encode(entry.value).decode(),
    )


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
