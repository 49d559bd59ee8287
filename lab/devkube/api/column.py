# SPDX-License-Identifier: Apache-2.0
"""One column of `kubectl get`, and what its cells are made of. Pure; `now` is the wall clock in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.devkube.api.objects import Obj, name_of, parse_timestamp

Cell = Callable[[Obj, float], Any]
NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"
INTEGER = "integer"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a wide one is shown on request only."""

    name: str
    cell: Cell
    wide: bool = False
    type: str = "string"

    def definition(self) -> Obj:
        name_format = "name" if self.name == "Name" else ""
        shown = {"name": self.name, "type": self.type, "format": name_format, "description": ""}
        return shown | {"priority": int(self.wide)}


def duration(seconds: float) -> str:
    """As kubectl prints an age: two units while the second one still matters."""
    s = max(0, int(seconds))
    minutes, hours, days = s // 60, s // 3600, s // 86400
    if s < 120:
        return f"{s}s"
    if minutes < 10:
        return f"{minutes}m{s % 60}s" if s % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def since(text: object, now: float) -> str:
    return duration(now - parse_timestamp(text)) if isinstance(text, str) else UNKNOWN


def age(obj: Obj, now: float) -> str:
    return since(obj["metadata"].get("creationTimestamp"), now)


def plain(read: Callable[[Obj], Any]) -> Cell:
    return lambda obj, _now: read(obj)


def value_at(*path: str, default: Any = NONE) -> Cell:
    def read(obj: Obj, _now: float) -> Any:
        value: Any = obj
        for field in path:
            value = value.get(field) if isinstance(value, dict) else None
        return default if value in (None, "") else value

    return read


NAME = Column("Name", plain(name_of))
AGE = Column("Age", age)
