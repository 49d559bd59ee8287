# SPDX-License-Identifier: Apache-2.0
"""Tables of frozen rows with atomic commits, revisions and change history.

One event loop owns a Database. Writes happen inside `with db.write():`, never across an await; so code that reads
several tables without awaiting sees one commit, and needs no lock and no copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, NamedTuple, TypeVar

from meshkit.errors import MeshError
from meshkit.text import render_rows
from meshkit.wake import Wake

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

# Deleted rows are remembered for readers of changes: this many, plus the most rows the table ever held.
TOMBSTONES_BEYOND_SIZE: Final = 8192


class TransactionError(MeshError):
    """The tables were used against their rules; always a programming error."""


class HistoryLostError(MeshError):
    """The caller is so far behind that deletions it has not seen are forgotten: it must look at every row again."""


class Change(NamedTuple, Generic[K, R]):
    """The net change of one row; `row` is the last one there was when `deleted`."""

    revision: int
    key: K
    row: R
    deleted: bool


class Table(Generic[K, R]):
    """Rows by primary key and in the order they last changed."""

    def __init__(self, db: Database, name: str, key: Callable[[R], K]) -> None:
        self.name, self.key = name, key
        self.changed = Wake()
        self._db = db
        self._rows: dict[K, R] = {}
        self._log: dict[K, int] = {}  # key to revision; the order of insertion is the order of revisions
        self._graves: dict[K, R] = {}
        self._grave_limit = TOMBSTONES_BEYOND_SIZE
        self._forgotten = 0  # the newest revision of a deletion that is no longer remembered
        self._undo: dict[K, R | None] = {}  # the row before the open transaction
        self.is_touched = False  # whether the open transaction changed a row
        self._waiting_for: set[str] = set()
        db.tables.append(self)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows.values())

    def get(self, key: K) -> R | None:
        return self._rows.get(key)

    def rows(self) -> Collection[R]:
        """Every row, as a live view: copy it before you write or await."""
        return self._rows.values()

    def keys(self) -> Collection[K]:
        return self._rows.keys()

    def put(self, row: R) -> bool:
        """The row is there. Returns False, and nothing happened, when an equal one was."""
        self._db.require_open()
        key = self.key(row)
        old = self._rows.get(key)
        if old is not None and (old is row or old == row):
            return False
        self.is_touched = True
        self._undo.setdefault(key, old)
        self._replace(key, row)
        return True

    def delete(self, key: K) -> bool:
        """No row has this key. Returns False when none had."""
        self._db.require_open()
        old = self._rows.get(key)
        if old is None:
            return False
        self.is_touched = True
        self._undo.setdefault(key, old)
        self._replace(key, None)
        return True

    def changes_since(self, revision: int) -> list[Change[K, R]]:
        """Net changes after `revision`, oldest first; a row that came and went is one deletion. O(changes).

        Raises: HistoryLostError when deletions after `revision` have been forgotten.
        """
        if revision < self._forgotten:
            raise HistoryLostError(f"table {self.name}: deletions after revision {revision} are forgotten")
        found: list[Change[K, R]] = []
        if revision >= self._db.revision:
            return found
        for key, changed_at in reversed(self._log.items()):
            if changed_at <= revision:
                break
            row = self._rows.get(key)
            if row is not None:
                found.append(Change(changed_at, key, row, deleted=False))
            else:
                found.append(Change(changed_at, key, self._graves[key], deleted=True))
        found.reverse()
        return found

    @property
    def revision(self) -> int:
        """The revision of the database; changes_since(table.revision) is empty."""
        return self._db.revision

    def expect(self, source: str) -> Callable[[], None]:
        """Name a source that must finish its first listing; returns its done()."""
        self._waiting_for.add(source)

        def done() -> None:
            if source in self._waiting_for:
                self._waiting_for.discard(source)
                self.changed.set()

        return done

    @property
    def initialized(self) -> bool:
        """Every expected source finished its first listing: what is not in the table is not wanted."""
        return not self._waiting_for

    @property
    def waiting_for(self) -> tuple[str, ...]:
        return tuple(sorted(self._waiting_for)) if self._waiting_for else ()

    def dump(self) -> str:
        """The table as text: equal tables give equal text, whatever the order of events was."""
        return render_rows(self.name, self._rows)

    def _replace(self, key: K, new: R | None) -> None:
        if new is None:
            del self._rows[key]
        else:
            self._rows[key] = new

    def commit(self) -> bool:
        """Called by Database.write: changes of the open transaction get their revisions."""
        undo, self._undo, self.is_touched = self._undo, {}, False
        changed = False
        for key, old in undo.items():
            row = self._rows.get(key)
            if row is old or row == old:
                continue  # came back to where it was
            changed = True
            self._log.pop(key, None)
            self._log[key] = self._db.next_revision()
            self._graves.pop(key, None)
            if row is None and old is not None:
                self._graves[key] = old
        self._grave_limit = max(self._grave_limit, TOMBSTONES_BEYOND_SIZE + len(self._rows))
        if len(self._graves) > self._grave_limit:
            self._forget_half()
        return changed

    def roll_back(self) -> None:
        """Called by Database.write: the table is as it was before the transaction."""
        undo, self._undo, self.is_touched = self._undo, {}, False
        for key, old in undo.items():
            now = self._rows.get(key)
            if now is not old:
                self._replace(key, old)

    def _forget_half(self) -> None:
        for key in list(itertools.islice(self._graves, len(self._graves) // 2)):
            del self._graves[key]
            self._forgotten = max(self._forgotten, self._log.pop(key))


class Database:
    """A set of tables that commit together. `revision` grows by one with every changed row."""

    def __init__(self) -> None:
        self.revision = 0
        self.tables: list[Table[Any, Any]] = []
        self._is_open = False

    @contextmanager
    def write(self) -> Iterator[None]:
        """All or nothing: an exception inside the block leaves every table as it was, and nobody is woken."""
        if self._is_open:
            raise TransactionError("a transaction inside a transaction")
        self._is_open = True
        try:
            yield
        except BaseException:
            for table in self.tables:
                if table.is_touched:
                    table.roll_back()
            raise
        else:
            changed = [table for table in self.tables if table.is_touched and table.commit()]
        finally:
            self._is_open = False
        for table in changed:
            table.changed.set()

    @property
    def initialized(self) -> bool:
        for table in self.tables:  # noqa: SIM110 - asked so often that a call for each table tells
            if table._waiting_for:
                return False
        return True

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The sources of all tables that did not finish their first listing, sorted."""
        return () if self.initialized else tuple(sorted({s for table in self.tables for s in table.waiting_for}))

    def dump(self) -> str:
        """Every table as text, in the order of their names."""
        return "".join(table.dump() for table in sorted(self.tables, key=lambda t: t.name))

    def require_open(self) -> None:
        if not self._is_open:
            raise TransactionError("a write outside a transaction")

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision


def snapshot(tables: Iterable[Table[Any, Any]]) -> str:
    """Several tables as one text, in the order given."""
    return "".join(table.dump() for table in tables)
