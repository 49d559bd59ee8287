# SPDX-License-Identifier: Apache-2.0
"""What the rest of the mesh may ask of a key-value store. Small on purpose: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple, Protocol

MAX_TXN_OPS: Final = 128
OPEN_END: Final = b"\0"


class ChangeKind(IntEnum):
    """What happened to a key."""

    PUT = 0
    DELETE = 1


class Event(NamedTuple):
    """One change of one key; `value` is empty for a delete."""

    kind: ChangeKind
    key: bytes
    value: bytes
    revision: int


class Phase(Enum):
    """Where a list-and-watch stands.

    LISTING: a listing begins, everything known is suspect until LISTED.
    LISTED: the listing is complete at the batch's revision; what it did not mention is gone.
    CHANGES: changes or a part of the listing; without events it says that the watch stands (again).
    INTERRUPTED: the connection is lost; what is known stays known, nothing new comes until the next CHANGES or LISTING.
    """

    LISTING = "listing"
    LISTED = "listed"
    CHANGES = "changes"
    INTERRUPTED = "interrupted"


class Batch(NamedTuple):
    """Some events of one phase, complete up to `revision` (0 if not known yet)."""

    phase: Phase
    events: Sequence[Event]
    revision: int


class Entry(NamedTuple):
    """One key as it is now."""

    key: bytes
    value: bytes
    revision: int
    lease: int = 0


class Page(NamedTuple):
    """A part of a listing; every page of one listing has the same revision and store."""

    entries: Sequence[Entry]
    revision: int
    cluster_id: int


class Changes(NamedTuple):
    """How many keys there are, and those of them last changed after some revision; not all of these if incomplete."""

    key_count: int
    entries: Sequence[Entry]
    revision: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The store about itself; `alarms` is empty when it is well.

    `size_bytes` is the file, which counts for the quota; `used_bytes` is what is left of it after defragmentation.
    """

    version: str
    cluster_id: int
    revision: int
    size_bytes: int
    alarms: tuple[str, ...] = ()
    used_bytes: int = 0


class Store(Protocol):
    """One store and one user of it. Every call may raise a KvError, Denied or Rejected.

    `on_store_change` is called when another store is found to answer, `on_break` when a watch that stood is broken: the same
    store may have been put back from a backup before it answers again.
    """

    on_store_change: list[Callable[[], None]]
    on_break: list[Callable[[], None]]

    async def get(self, key: bytes) -> Entry | None:
        """The key as it is now, None if it does not exist."""
        ...

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """The key has the value; returns the revision."""
        ...

    async def create(self, key: bytes, value: bytes, *, lease: int = 0) -> bool:
        """True if the key did not exist and now has the value."""
        ...

    async def replace(self, key: bytes, value: bytes, *, mod_revision: int, lease: int = 0) -> bool:
        """True if the key was last changed at `mod_revision` and now has the value."""
        ...

    async def apply(self, ops: Mapping[bytes, bytes | None], *, lease: int | Mapping[bytes, int] = 0) -> int:
        """All of up to 128 puts and deletes (None) happened at the returned revision, or none did.

        What is put hangs on the one lease, or each key on the lease given for it.
        """
        ...

    async def delete_prefix(self, prefix: bytes) -> int:
        """No key begins with the prefix; returns how many did."""
        ...

    async def changed_since(self, prefix: bytes, revision: int) -> Changes:
        """How many keys begin with the prefix, and up to a page of those last changed after the revision."""
        ...

    def list(self, prefix: bytes) -> AsyncGenerator[Page, None]:
        """Every key that begins with the prefix, in order, as of one revision."""
        ...

    def list_and_watch(self, prefix: bytes, *, canary: bytes | None = None) -> AsyncGenerator[Batch, None]:
        """Everything under the prefix and every change to it, for ever; raises Denied only.

        With a canary, no listing begins before that key exists in the store: a store that was emptied is not read
        before its owner says it is filled again.
        """
        ...

    async def status(self) -> Status:
        """The store about itself."""
        ...

    async def close(self) -> None:
        """No call is under way and none can be made."""
        ...


class LeaseStore(Store, Protocol):
    """A store that also lets us hold leases."""

    async def grant(self, ttl_s: float) -> int:
        """The id of a new lease."""
        ...

    async def keep_alive(self, leases: Sequence[int]) -> Mapping[int, float]:
        """Each lease lives its full time again; its new time to live, 0 if it is gone."""
        ...

    async def revoke(self, lease: int) -> None:
        """The lease and every key attached to it are gone."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """The first key after every key that begins with the prefix; open if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else OPEN_END


def lease_by_key(keys: Iterable[bytes], lease: int | Mapping[bytes, int]) -> Mapping[bytes, int]:
    """The lease of each key, from one for all or from the leases by key."""
    return dict.fromkeys(keys, lease) if isinstance(lease, int) else lease
