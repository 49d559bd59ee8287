# SPDX-License-Identifier: Apache-2.0
"""Records that move between the public and the private part of the own cluster's store: which of the two is true. Pure.

Each part is watched by itself, so what one part said long ago may arrive after what the other says now. Both are parts of one
store, whose revisions say what is newer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from meshpeer.consumer import Change


class Twins:
    """One kind's keys, with the part that told of each last, and the revision of what it told."""

    def __init__(self) -> None:
        self._told: dict[bytes, tuple[int, bool]] = {}

    def begin_listing(self, *, is_private: bool) -> None:
        """Another store may answer: how new the other part is, compared with what this one told before, is not known."""
        for key, (_, was_private) in self._told.items():
            if was_private is is_private:
                self._told[key] = (0, was_private)

    def settle(
        self, changes: Iterable[Change], revisions: Mapping[bytes, int], other: Container[bytes], *, is_private: bool
    ) -> tuple[list[Change], bool]:
        """The changes of one part that are news, and whether the other part has to be told again.

        A value that is older than what the other part says is none. A key that is gone here and stands in the other part is
        not gone; if it was told from here last, what the other part says of it is not known any more.
        """
        for key, revision in revisions.items():  # also of values that are no change
            if self._told.get(key, (0, not is_private))[1] is is_private:
                self._told[key] = (revision, is_private)
        news: list[Change] = []
        is_other_due = False
        for key, value in changes:
            revision, was_private = self._told.get(key, (0, is_private))
            if value is None:
                if key not in other:
                    self._told.pop(key, None)
                    news.append((key, None))
                elif was_private is is_private:
                    is_other_due = True
            elif was_private is is_private or key not in other or revisions.get(key, 0) >= revision:
                self._told[key] = (revisions.get(key, 0), is_private)
                news.append((key, value))
        return news, is_other_due
