# SPDX-License-Identifier: Apache-2.0
"""How large a record may be before we look at it, and how its JSON is read."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from meshmodel.errors import RecordError

MAXIMUM_RECORD_BYTES: Final = 16 << 20
MAXIMUM_KEY_BYTES: Final = 1024

T = TypeVar("T")


def decode_json(decoder: msgspec.json.Decoder[T], key: str, value: bytes) -> T:
    """The record, shaped as its struct says. Raises RecordError: too-large, bad-json, wrong-type."""
    if len(value) > MAXIMUM_RECORD_BYTES or len(key) > MAXIMUM_KEY_BYTES:
        raise RecordError(key, "too-large", f"{len(value)} bytes under a key of {len(key)}")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as exc:
        raise RecordError(key, "wrong-type", str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RecordError(key, "bad-json", str(exc)) from exc
