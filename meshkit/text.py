# SPDX-License-Identifier: Apache-2.0
"""Values as deterministic text: the same form in status pages, tests and bug reports."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec


def render(value: object) -> str:
    """A value in one line: equal values give equal text; sets and mappings are sorted."""
    if isinstance(value, Enum):
        return str(value.value) if isinstance(value, str) else value.name.lower()
    if isinstance(value, str):
        is_plain = bool(value) and not any(c.isspace() or c in "\"'=,{}[]()" or not c.isprintable() for c in value)
        return value if is_plain else repr(value)
    if (fields := _fields(value)) is not None:
        if type(value).__str__ is not object.__str__:
            return str(value)
        return "(" + " ".join(f"{name}={render(part)}" for name, part in fields) + ")"
    if isinstance(value, Mapping):
        parts = sorted((render(k), render(v)) for k, v in value.items())
        return "{" + ", ".join(f"{k}: {v}" for k, v in parts) + "}"
    if isinstance(value, frozenset | set):
        return "{" + ", ".join(sorted(render(v) for v in value)) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(render(v) for v in value) + "]"
    return repr(value)


def visible(text: str) -> str:
    """The text as a terminal may have it: what would command it, or turn the line round, as JSON writes it. Lines stay lines.

    For everything that a command prints: names and labels may be a peer's, and nobody refuses odd ones.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def visible_cell(value: object) -> str:
    """One cell of a table or one word of a line, which stays in its line."""
    return visible(str(value).replace("\n", "\\n").replace("\t", "\\t"))


def render_key(key: object) -> str:
    """A primary key in one word."""
    if isinstance(key, tuple) and _fields(key) is None:
        return "|".join(render(part) for part in key)
    return render(key)


def render_rows(name: str, rows: Mapping[Any, object]) -> str:
    """A table: its name and size, then one line per row, sorted by key."""
    lines = sorted((render_key(key), _row(row)) for key, row in rows.items())
    return f"{name} ({len(lines)})\n" + "".join(f"  {key}  {row}\n" for key, row in lines)


def _row(row: object) -> str:
    fields = _fields(row)
    if fields is None:
        return render(row)
    return " ".join(f"{name}={render(part)}" for name, part in fields)


def _fields(value: object) -> list[tuple[str, object]] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.compare]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, tuple) and (names := getattr(value, "_fields", None)) is not None:
        return list(zip(names, value, strict=True))
    return None
