# SPDX-License-Identifier: Apache-2.0
"""Moments in documents for people's programs: RFC 3339 where the mesh's programs say seconds since 1970. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

MOMENTS: Final = frozenset(
    {
        "cert-not-after",
        "certificate-not-after",
        "last-failure",
        "last-update",
        "now",
        "session-since",
        "since",
        "started",
    }
)
"""Members of meshapi's structs that hold wall seconds, 0 for never."""


def rfc3339(wall_s: float) -> str:
    """A moment in UTC to the second; empty for 0, which is never."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if wall_s else ""


def with_times(value: Any) -> Any:
    """The same document with every moment in words."""
    if isinstance(value, Mapping):
        return {
            name: rfc3339(inner) if name in MOMENTS and isinstance(inner, int | float) else with_times(inner)
            for name, inner in value.items()
        }
    return [with_times(inner) for inner in value] if isinstance(value, list | tuple) else value
