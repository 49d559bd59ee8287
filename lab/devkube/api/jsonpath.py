# SPDX-License-Identifier: Apache-2.0
"""The part of JSONPath that printer columns use: fields, positions, wildcards and equality filters. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_STEP = re.compile(
    r"""\.?\['(?P<quoted>[^']+)'\]        # ['a.b']
      | \[(?P<index>-?\d+)\]              # [0]
      | \[\*\] | \.\*                     # [*]
      | \[\?\(@\.(?P<field>[\w.]+)\s*==\s*['"](?P<wanted>[^'"]*)['"]\)\]   # [?(@.type=="Ready")]
      | \.?(?P<name>(?:\\.|[^.\[\\])+)    # .name with \. for a dot
    """,
    re.VERBOSE,
)


def find_all(path: str, obj: Any) -> list[Any]:
    """Every value at the path; none where the object does not have it or the path cannot be read."""
    values = [obj]
    for step in _steps(path):
        values = step(values)
    return values


@functools.cache
def _steps(path: str) -> tuple[Step, ...]:
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    steps: list[Step] = []
    position = 0
    while position < len(text) and text != ".":
        found = _STEP.match(text, position)
        if found is None:
            return (lambda _values: [],)
        steps.append(_step(found))
        position = found.end()
    return tuple(steps)


def _step(found: re.Match[str]) -> Step:
    if found["index"] is not None:
        return functools.partial(_at_index, int(found["index"]))
    if found["field"] is not None:
        return functools.partial(_matching, found["field"].split("."), found["wanted"])
    name = found["quoted"] or found["name"]
    if name is None:
        return _each
    return functools.partial(_at_field, re.sub(r"\\(.)", r"\1", name))


def _at_field(name: str, values: list[Any]) -> list[Any]:
    return [value[name] for value in values if isinstance(value, dict) and value.get(name) is not None]


def _at_index(index: int, values: list[Any]) -> list[Any]:
    return [value[index] for value in values if isinstance(value, list) and -len(value) <= index < len(value)]


def _each(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return found


def _matching(field: list[str], wanted: str, values: list[Any]) -> list[Any]:
    def has(item: Any) -> bool:
        for name in field:
            item = item.get(name) if isinstance(item, dict) else None
        return str(item) == wanted

    return [item for value in values if isinstance(value, list) for item in value if has(item)]
