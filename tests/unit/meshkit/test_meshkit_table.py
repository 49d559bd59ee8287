# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from meshkit import table as table_module
from meshkit.table import Change, Database, HistoryLostError, Table, TransactionError


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    node: str
    labels: frozenset[str] = frozenset()
    seen_wall_s: float = field(default=0.0, compare=False)


def make() -> tuple[Database, Table[str, Pod]]:
    db = Database()
    pods: Table[str, Pod] = Table(db, "pods", key=lambda p: p.name)
    return db, pods


def test_a_put_row_is_found_by_key_and_a_deleted_one_is_not() -> None:
    db, pods = make()
    with db.write():
        assert pods.put(Pod("a", "n1"))
    assert pods.get("a") == Pod("a", "n1")
    with db.write():
        assert pods.delete("a")
        assert not pods.delete("a")
    assert pods.get("a") is None
    assert len(pods) == 0


def test_an_equal_row_changes_nothing_and_wakes_nobody() -> None:
    db, pods = make()
    with db.write():
        pods.put(Pod("a", "n1"))
    revision, rings = db.revision, pods.changed.count
    with db.write():
        assert not pods.put(Pod("a", "n1", seen_wall_s=5.0))
    assert (db.revision, pods.changed.count) == (revision, rings)


def test_a_row_that_came_back_to_what_it_was_is_no_change() -> None:
    db, pods = make()
    with db.write():
        pods.put(Pod("a", "n1"))
    revision = db.revision
    with db.write():
        pods.put(Pod("a", "n2"))
        pods.delete("a")
        pods.put(Pod("a", "n1"))
        pods.put(Pod("b", "n1"))
        pods.delete("b")
    assert db.revision == revision
    assert pods.changes_since(revision) == []


def test_an_exception_leaves_every_table_as_it_was() -> None:
    db, pods = make()
    others: Table[str, Pod] = Table(db, "others", key=lambda p: p.name)
    with db.write():
        pods.put(Pod("a", "n1"))
    before, revision = db.dump(), db.revision
    with pytest.raises(RuntimeError, match="stop"), db.write():  # noqa: PT012
        pods.put(Pod("a", "n2"))
        pods.put(Pod("b", "n2"))
        pods.delete("a")
        others.put(Pod("x", "n1"))
        raise RuntimeError("stop")
    assert (db.dump(), db.revision) == (before, revision)
    assert list(pods) == [Pod("a", "n1")]


def test_a_transaction_sees_its_own_writes() -> None:
    db, pods = make()
    with db.write():
        pods.put(Pod("a", "n1"))
        assert pods.get("a") == Pod("a", "n1")
        pods.put(Pod("a", "n2"))
        assert list(pods) == [Pod("a", "n2")]


def test_writes_outside_or_inside_another_transaction_are_refused() -> None:
    db, pods = make()
    with pytest.raises(TransactionError):
        pods.put(Pod("a", "n1"))
    with pytest.raises(TransactionError), db.write(), db.write():
        pass
    with db.write():
        pods.put(Pod("a", "n1"))


def test_changes_are_net_and_in_the_order_of_their_last_change() -> None:
    db, pods = make()
    with db.write():
        pods.put(Pod("a", "n1"))
        pods.put(Pod("b", "n1"))
    seen = db.revision
    with db.write():
        pods.put(Pod("c", "n1"))
    with db.write():
        pods.put(Pod("a", "n2"))
    with db.write():
        pods.delete("b")
    assert [(c.key, c.deleted) for c in pods.changes_since(seen)] == [("c", False), ("a", False), ("b", True)]
    assert pods.changes_since(seen)[-1] == Change(db.revision, "b", Pod("b", "n1"), deleted=True)
    assert pods.changes_since(pods.revision) == []
    assert [c.key for c in pods.changes_since(0)] == ["c", "a", "b"]


def test_a_deleted_and_recreated_row_is_one_change() -> None:
    db, pods = make()
    with db.write():
        pods.put(Pod("a", "n1"))
    seen = db.revision
    with db.write():
        pods.delete("a")
    with db.write():
        pods.put(Pod("a", "n3"))
    assert [(c.key, c.deleted) for c in pods.changes_since(seen)] == [("a", False)]


def test_forgotten_deletions_are_admitted_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "TOMBSTONES_BEYOND_SIZE", 10)
    db, pods = make()
    for number in range(40):
        with db.write():
            pods.put(Pod(f"p{number}", "n1"))
        with db.write():
            pods.delete(f"p{number}")
    with pytest.raises(HistoryLostError):
        pods.changes_since(0)
    recent = pods.changes_since(db.revision - 4)
    assert [(c.key, c.deleted) for c in recent] == [("p38", True), ("p39", True)]


def test_draining_a_large_table_is_still_seen_by_a_reader_that_was_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "TOMBSTONES_BEYOND_SIZE", 10)
    db, pods = make()
    with db.write():
        for number in range(1000):
            pods.put(Pod(f"p{number}", "n1"))
    seen = db.revision
    with db.write():
        for number in range(1000):
            pods.delete(f"p{number}")
    assert len(pods.changes_since(seen)) == 1000


def test_a_table_is_initialized_when_every_expected_source_is_done() -> None:
    db, pods = make()
    assert pods.initialized
    first, second = pods.expect("first"), pods.expect("second")
    assert (pods.initialized, pods.waiting_for, db.initialized) == (False, ("first", "second"), False)
    rings = pods.changed.count
    first()
    first()
    assert pods.changed.count == rings + 1
    second()
    assert pods.initialized
    assert db.initialized


def test_equal_tables_give_equal_text_whatever_the_order_of_events_was() -> None:
    (db1, one), (db2, two) = make(), make()
    with db1.write():
        one.put(Pod("a", "n1", frozenset({"y", "x"}), seen_wall_s=1.0))
        one.put(Pod("b b", ""))
    with db2.write():
        two.put(Pod("b b", "n9"))
        two.put(Pod("gone", "n9"))
    with db2.write():
        two.put(Pod("b b", ""))
        two.delete("gone")
        two.put(Pod("a", "n1", frozenset({"x", "y"}), seen_wall_s=2.0))
    assert one.dump() == two.dump()
    assert one.dump() == "pods (2)\n  'b b'  name='b b' node='' labels={}\n  a  name=a node=n1 labels={x, y}\n"


async def test_waiters_are_woken_once_per_commit_and_never_miss_one() -> None:
    db, pods = make()
    seen = pods.changed.count
    with db.write():
        pods.put(Pod("a", "n1"))
        pods.put(Pod("b", "n1"))
    assert await pods.changed.wait(seen) == seen + 1  # it rang before anybody waited
    waiter = asyncio.ensure_future(pods.changed.wait())
    other = asyncio.ensure_future(pods.changed.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    with db.write():
        pods.delete("a")
    assert await waiter == await other == seen + 2
