# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.table import Database, Table
from tests.support.effort import examples


class Row(NamedTuple):
    key: int
    group: int
    value: int


Operation = tuple[str, Row]
rows = st.builds(Row, st.integers(0, 5), st.integers(0, 2), st.integers(0, 2))
operations = st.tuples(st.sampled_from(["put", "put", "delete"]), rows)
transactions = st.lists(st.tuples(st.lists(operations, max_size=6), st.booleans()), max_size=12)


@settings(max_examples=examples(300))
@given(transactions, st.integers(0, 12))
def test_rows_and_changes_equal_those_of_a_dumb_copy(
    script: list[tuple[list[Operation], bool]], look_after: int
) -> None:
    """Law: rows = replayed dict; changes since a moment = difference of two dicts."""
    db = Database()
    table: Table[int, Row] = Table(db, "t", key=lambda r: r.key)
    twin: dict[int, Row] = {}
    seen, seen_twin = 0, dict(twin)
    for step, (batch, is_aborted) in enumerate(script):
        if step == look_after:
            seen, seen_twin = db.revision, dict(twin)
        draft = dict(twin)
        try:
            with db.write():
                for verb, row in batch:
                    if verb == "put":
                        table.put(row)
                        draft[row.key] = row
                    else:
                        table.delete(row.key)
                        draft.pop(row.key, None)
                    assert sorted(table) == sorted(draft.values())
                if is_aborted:
                    raise KeyboardInterrupt
            twin = draft
        except KeyboardInterrupt:
            pass
        assert {r.key: r for r in table.rows()} == twin
    changes = {c.key: (None if c.deleted else c.row) for c in table.changes_since(seen)}
    differing = {k for k in seen_twin.keys() | twin.keys() if seen_twin.get(k) != twin.get(k)}
    assert differing <= changes.keys()
    assert all(twin.get(key) == row for key, row in changes.items())
