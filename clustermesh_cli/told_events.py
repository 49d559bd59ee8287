# SPDX-License-Identifier: Apache-2.0
"""Events as programs and Kubernetes tell them: what is asked for, what was told, and how it reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from meshapi.event import EventKind, EventLevel, MeshEvent, is_asked_for, parse_event_time
from meshapi.installed import AGENT, APISERVER
from meshapi.row import SCHEMA, Row
from meshkit.decoding import decode_as

PROGRAMS: Final = (AGENT, APISERVER)
HEAD: Final = ("TIME", "CLUSTER", "WHO", "KIND", "LEVEL", "SUBJECT", "MESSAGE")
_WIDTHS: Final = (26, 14, 26, 13, 9, 32)


class EventWish(NamedTuple):
    """Which events are asked for. `since` is a time as events have it, "" for all that are kept; `limit` of each program."""

    since: str = ""
    kind: str = ""
    cluster: str = ""
    limit: int = 500

    def query(self) -> dict[str, str]:
        """The same for a program."""
        found = {"since": self.since, "kind": self.kind, "cluster": self.cluster, "limit": str(self.limit)}
        return {name: value for name, value in found.items() if value}

    def admits(self, event: MeshEvent) -> bool:
        """What a program decides by itself, for events that come from elsewhere."""
        return is_asked_for(event, since=self.since, kind=self.kind, cluster=self.cluster)


class ToldEvents(Row, kw_only=True):
    """Events in the order of their times; `missing` says who told none."""

    schema: int = SCHEMA
    items: list[MeshEvent]
    missing: list[str]


def read_lines(body: bytes) -> list[MeshEvent]:
    """The events of an answer. Raises: msgspec.DecodeError."""
    return [decode_as(line, MeshEvent) for line in body.splitlines() if line]


def from_kubernetes(cluster: str, objects: Iterable[Mapping[str, Any]]) -> list[MeshEvent]:
    """Kubernetes Events that our programs wrote about somebody's objects; those of others are left out."""
    return [event for found in objects if (event := _read_object(cluster, found)) is not None]


def _read_object(cluster: str, found: Mapping[str, Any]) -> MeshEvent | None:
    program = (found.get("source") or {}).get("component") or found.get("reportingComponent") or ""
    try:
        time = parse_event_time(str(found.get("lastTimestamp") or found.get("eventTime")))
    except ValueError:
        return None
    if program not in PROGRAMS:
        return None
    about = found.get("involvedObject") or {}
    name = "/".join(str(about[part]) for part in ("namespace", "name") if about.get(part))
    return MeshEvent(
        time=time,
        number=int(found.get("count") or 0),
        cluster=cluster,
        program=str(program),
        kind=EventKind.OBJECT,
        level=EventLevel.WARNING if found.get("type") == "Warning" else EventLevel.INFO,
        subject=f"{about.get('kind', '')} {name}".strip(),
        message=f"{found.get('reason', '')}: {found.get('message', '')}",
    )


def event_cells(event: MeshEvent) -> Sequence[str]:
    """One line of the table."""
    who = event.node or event.program
    return (event.time, event.cluster, who, event.kind, event.level, event.subject or event.peer or "-", event.message)


def event_line(cells: Sequence[str]) -> str:
    """A line whose columns stand below each other also while nobody knows what comes."""
    return "".join(f"{cell:<{width}} " for cell, width in zip(cells[:-1], _WIDTHS, strict=True)) + cells[-1]
