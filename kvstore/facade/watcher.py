# SPDX-License-Identifier: Apache-2.0
"""One watch of one client of the facade: where it stands, and how its messages are made from shared ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kvstore.facade.hub import HistoryRecord, Hub
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import ChangeKind

WATCH_ID_TAG: Final = b"\x10"
NO_WATCH_ID: Final = -1


class Watcher:
    """A client's watch on a shared hub.

    `next_revision` is the first revision the client has not been given.
    """

    def __init__(self, watch_id: int, request: pb.WatchCreateRequest, next_revision: int) -> None:
        self.id, self.request, self.next_revision = watch_id, request, next_revision
        self.hub: Hub | None = None
        self.cursor = 0
        self.idle_since = 0.0
        self._suffix = id_suffix(watch_id)
        names = pb.WatchCreateRequest
        self._hidden = frozenset(
            kind
            for kind, name in ((ChangeKind.PUT, names.NOPUT), (ChangeKind.DELETE, names.NODELETE))
            if name in request.filters
        )

    def attach(self, hub: Hub) -> None:
        """From now on the messages come from the hub."""
        self.hub, self.cursor = hub, hub.cursor(self.next_revision)

    @property
    def is_too_slow(self) -> bool:
        """True if the hub has forgotten what this client would have to be given next."""
        return self.hub is not None and self.hub.floor >= self.next_revision

    def take(self) -> bytes | None:
        """The next message for the client, None if there is nothing new for it.

        Several shared messages become one by putting their bytes in a row: repeated fields add up, of single ones the
        last counts. That is also how the watch's own id gets in.
        """
        hub = self.hub
        while hub is not None and self.cursor < hub.end:
            records = hub.read(self.cursor)
            since, last = self.next_revision, records[-1].last
            self.cursor += len(records)
            self.next_revision = max(since, last + 1)
            if not self._hidden and records[0].first >= since:
                return b"".join(record.raw for record in records) + self._suffix
            message = self._filtered(records, since)
            if message is not None:
                return message
        return None

    def rewrap(self, raw: bytes) -> bytes:
        """A message of a private upstream watch under this watch's own id."""
        return raw + self._suffix

    def _filtered(self, records: Sequence[HistoryRecord], since: int) -> bytes | None:
        merged = pb.WatchResponse.FromString(b"".join(record.raw for record in records))
        kept = [
            event
            for event in merged.events
            if event.kv.mod_revision >= since and ChangeKind(event.type) not in self._hidden
        ]
        if not kept:
            return None
        answer = pb.WatchResponse(header=merged.header, watch_id=self.id, events=kept)
        return answer.SerializeToString()


def id_suffix(watch_id: int) -> bytes:
    """The bytes that, put behind a serialized answer, give it this watch id."""
    if watch_id == 0:
        return b""
    number, suffix = watch_id & (1 << 64) - 1, bytearray(WATCH_ID_TAG)
    while number > 0x7F:
        suffix.append(number & 0x7F | 0x80)
        number >>= 7
    suffix.append(number)
    return bytes(suffix)
