# SPDX-License-Identifier: Apache-2.0
"""List, then watch, then sweep: what is known of one prefix, without any I/O.

Known keys are kept across reconnects. When a listing begins they become suspect; when it ends, the suspects that it did not
mention are gone. A value that did not change is not reported again.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvstore.store import Batch, Kind, Phase


class View:
    """Feed it every batch of a prefix; it says which keys (without the prefix) to set and which to delete (None)."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.is_synced = False
        self._known: dict[bytes, int] = {}
        self._suspects: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def feed(self, batch: Batch) -> Iterator[tuple[bytes, bytes | None]]:
        """What the batch changes, in its order. Read it to the end."""
        if batch.phase is Phase.LISTING:
            self._suspects = set(self._known)
        for event in batch.events:
            key = event.key.removeprefix(self.prefix)
            self._suspects.discard(key)
            if event.kind is Kind.DELETE:
                if self._known.pop(key, None) is not None:
                    yield key, None
                continue
            digest = hash(event.value)
            if self._known.get(key) != digest:
                self._known[key] = digest
                yield key, event.value
        if batch.phase is Phase.LISTED:
            gone, self._suspects = self._suspects, set()
            for key in sorted(gone):
                self._known.pop(key, None)
                yield key, None
            self.is_synced = True

    def forget(self) -> None:
        """Nothing is known: the next listing is the first one."""
        self._known.clear()
        self._suspects.clear()
        self.is_synced = False
