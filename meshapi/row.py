# SPDX-License-Identifier: Apache-2.0
"""The base of every struct that a program answers with, and its bytes. Pure.

JSON names are hyphenated. Nullable members mean "not applicable", never "not yet". New members may be added; none changes its
meaning, and members a reader does not know are ignored.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

SCHEMA: Final = 1


class Row(msgspec.Struct, rename="kebab"):
    """One JSON object of an answer."""


class Items(Row, kw_only=True):
    """A list as a document of a command."""

    schema: int = SCHEMA
    items: list[Any]


def encode(answer: object) -> bytes:
    """JSON of a row, a list of rows, or plain data; equal answers give equal bytes, and `schema` comes first."""
    if isinstance(answer, dict) and len(answer) > 1 and "schema" in answer:
        first, rest = {"schema": answer["schema"]}, {name: value for name, value in answer.items() if name != "schema"}
        return encode(first)[:-1] + b"," + encode(rest)[1:]
    return msgspec.json.encode(answer, order="deterministic")
