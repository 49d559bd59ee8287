# SPDX-License-Identifier: Apache-2.0
"""What structural schemas of CRDs are put together from."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def object_of(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    """An object with these fields; `more` are other keywords of the schema."""
    return {"type": "object", "properties": properties, **({"required": required} if required else {}), **more}


def list_of(items: Schema, **more: Any) -> Schema:
    """A list of such items."""
    return {"type": "array", "items": items, **more}


def text_of(**more: Any) -> Schema:
    """A string."""
    return {"type": "string", **more}
