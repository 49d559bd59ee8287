# SPDX-License-Identifier: Apache-2.0
"""Law: rows that no map can hold are named as failed, and nothing else of the node notices them.

Whatever their mixture with good rows, edits and deletions, the good rows are written at their first attempt; once the odd
ones are gone, maps, ids and references are those of a node that never saw them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from map_targets import Node, backend, frontend, prefix, verdicts

from agent.tables import EndpointVerdicts, Frontend, Prefix

Row = Frontend | Prefix | EndpointVerdicts
ODD_ADDRESSES = ("010.1.1.3", "10.1.1", "fd00::1", "", "10.1.1.1/32", "name", "\ud800")
numbers = st.lists(st.integers(1, 5), max_size=4)


def good_frontend(name: str, chosen: list[int], draining: list[int], timeout_s: int) -> Frontend:
    leaving = [backend(n) for n in draining if n not in chosen]
    return frontend(name, [backend(n) for n in chosen], draining=leaving, timeout_s=timeout_s)


def odd_frontend(name: str, kind: str, address: str, chosen: list[int]) -> Frontend:
    targets = [backend(n) for n in chosen]
    match kind:
        case "address":
            return frontend(name, targets, address=address)
        case "port":
            return frontend(name, targets, port=65_536)
        case "protocol":
            return frontend(name, targets, protocol="GRE")
        case "draining":
            return frontend(name, targets, draining=[backend(address)])
        case _:
            return frontend(name, [*targets, backend(address)])


names = st.sampled_from("abcd")
good: st.SearchStrategy[Row] = st.one_of(
    st.builds(good_frontend, names, numbers, numbers, st.sampled_from([0, 60])),
    st.builds(prefix, st.sampled_from(["10.2.0.1/32", "10.2.0.2/32", "10.2.0.0/16", "fd00::/64"]), st.integers(1, 3)),
    st.builds(verdicts, st.integers(1, 4), st.lists(st.sampled_from([80, 443]), unique=True, max_size=2)),
)
odd: st.SearchStrategy[Row] = st.one_of(
    st.builds(
        odd_frontend,
        names,
        st.sampled_from(["address", "port", "protocol", "draining", "backend"]),
        st.sampled_from(ODD_ADDRESSES),
        numbers,
    ),
    st.builds(prefix, st.sampled_from(["010.1.1.3/32", "10.2.0.1/8", "10.2.0.1/33", "", "x/y"]), st.integers(1, 3)),
    st.builds(prefix, st.just("10.2.0.1/32"), st.just(-1)),
    st.builds(prefix, st.just("10.2.0.2/32"), st.just(5), st.just("node-1")),
    st.builds(lambda n: verdicts(n, [80], mac="xx"), st.integers(1, 4)),
    st.builds(lambda n: verdicts(n + 65_536, [80], mac="02:00:00:00:00:01"), st.integers(1, 4)),
    st.builds(lambda n: verdicts(n, [], address="010.1.1.3"), st.integers(1, 4)),
)
step = st.tuples(
    st.sampled_from(["put", "put", "put", "delete"]), st.lists(st.one_of(good, odd), min_size=1, max_size=6)
)


def key_of(row: Row) -> str:
    match row:
        case Frontend():
            return str(row.key)
        case Prefix():
            return row.prefix
        case EndpointVerdicts():
            return row.endpoint.address


@given(st.lists(st.tuples(step, st.booleans()), max_size=12))
def test_odd_rows_are_named_and_nothing_else_notices_them(steps: list[tuple[tuple[str, list[Row]], bool]]) -> None:
    node = Node()
    rows: dict[str, tuple[Row, bool]] = {}
    for (verb, found), is_round in steps:
        for row in found:
            (node.put if verb == "put" else node.delete)(row)
            rows.pop(key_of(row), None)
            if verb == "put":
                rows[key_of(row)] = (row, is_packable(row))
        if is_round:
            node.round()
            assert node.failed() == {key for key, (_, is_good) in rows.items() if not is_good}
    node.round()
    assert node.failed() == {key for key, (_, is_good) in rows.items() if not is_good}
    node.delete(*(row for row, is_good in rows.values() if not is_good))
    node.compare()
    fresh = Node()
    fresh.put(*(row for row, is_good in rows.values() if is_good))
    fresh.settle()
    assert node.state() == fresh.state()
    assert node.references() == fresh.references()


def is_packable(row: Row) -> bool:
    """The second opinion: by the values, not by packing."""
    match row:
        case Frontend():
            addresses = [row.key.address, *(t.address for t in (*row.chosen, *row.draining))]
            return row.key.port < 65_536 and row.key.protocol == "TCP" and not set(addresses) & set(ODD_ADDRESSES)
        case Prefix():
            is_prefix = row.prefix in ("10.2.0.1/32", "10.2.0.2/32", "10.2.0.0/16", "fd00::/64")
            return is_prefix and row.identity >= 0 and row.tunnel != "node-1"
        case EndpointVerdicts():
            return (
                row.endpoint.mac != "xx" and row.endpoint.endpoint_id < 65_536 and row.endpoint.address != "010.1.1.3"
            )
