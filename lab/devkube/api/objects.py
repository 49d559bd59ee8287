# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as plain dictionaries, and the few questions everybody asks of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

Obj = dict[str, Any]
"""One Kubernetes object, or a part of one, as JSON gives it."""

ObjectKey = tuple[str, str]
"""Namespace ("" for cluster-scoped kinds) and name."""


def copy_object(obj: Obj) -> Obj:
    """An independent copy; several times quicker than copy.deepcopy."""
    copied: Obj = orjson.loads(orjson.dumps(obj))
    return copied


def metadata(obj: Obj) -> Obj:
    found: Obj = obj["metadata"]
    return found


def name_of(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Obj) -> str:
    return str(obj["metadata"].get("namespace", ""))


def key_of(obj: Obj) -> ObjectKey:
    return namespace_of(obj), name_of(obj)


def uid_of(obj: Obj) -> str:
    return str(obj["metadata"].get("uid", ""))


def labels_of(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def revision_of(obj: Obj) -> int:
    return int(obj["metadata"]["resourceVersion"])


def is_deleting(obj: Obj) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def part(obj: Obj, field: str) -> Obj:
    """A sub-object, empty where it is absent or null; changes to the empty one are lost."""
    found: Obj = obj.get(field) or {}
    return found


def items_of(obj: Obj, field: str) -> list[Obj]:
    """A list of sub-objects, empty where it is absent or null."""
    found: list[Obj] = obj.get(field) or []
    return found


def timestamp(wall_s: float) -> str:
    """RFC 3339 with seconds, as every Kubernetes object carries it."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """Seconds since 1970. Raises ValueError if the text is no RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
