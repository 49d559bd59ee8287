# SPDX-License-Identifier: Apache-2.0
"""No module needs itself: not by way of others, and not in its types alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.unit.architecture.source_tree import modules


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules of which each reaches each other one, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        open_.append(name)
        for other in sorted(imports[name]):
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in open_:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            at = open_.index(name)
            group, open_[at:] = open_[at:], []
            if len(group) > 1 or name in imports[name]:
                found.append(sorted(group))

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    assert circles({name: {i for i in module.imports if i in known} for name, module in known.items()}) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": "b", "b": "c", "c": "b", "d": "a"}) == [["b", "c"]]
    assert circles({"a": "b", "b": "", "c": "ab"}) == []
