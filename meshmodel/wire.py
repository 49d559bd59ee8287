# SPDX-License-Identifier: Apache-2.0
"""What all JSON records have in common: the size cap, the two ways of being no record, bytes like Go's encoder."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from meshmodel.errors import RecordError

MAXIMUM_BYTES: Final = 16 * 1024 * 1024
# Empty objects and tiny members cost thirty times their text in memory. These are three times what a service of 60,000
# IPv6 backends has; only texts beyond the first size are counted at all.
_COUNTED_BYTES: Final = 1024 * 1024
_MAXIMUM_OBJECTS: Final = 360_000
_MAXIMUM_COLONS: Final = 2_000_000
T = TypeVar("T")

_encoder: Final = msgspec.json.Encoder(order="deterministic")
# Go escapes these in strings, so that JSON can stand inside HTML; outside of strings they do not occur in JSON.
_GO_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def encode_json(value: Any) -> bytes:
    """Deterministic bytes, equal to what Go writes for the same value: sorted map keys, no blanks, its escapes."""
    data = _encoder.encode(value)
    for plain, escaped in _GO_ESCAPES:
        if plain in data:
            data = data.replace(plain, escaped)
    return data


def decode_json(decoder: msgspec.json.Decoder[T], key: str, value: bytes) -> T:
    """The value as the decoder's type.

    Raises: RecordError: too-large, bad-field (JSON of another shape), bad-json (no JSON at all).
    """
    if len(value) > MAXIMUM_BYTES:
        raise RecordError(key, "too-large", f"{len(value)} bytes")
    if len(value) > _COUNTED_BYTES and (value.count(b"{") > _MAXIMUM_OBJECTS or value.count(b":") > _MAXIMUM_COLONS):
        raise RecordError(key, "too-large", "too many members")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as exc:
        raise RecordError(key, "bad-field", str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordError(key, "bad-json", str(exc)) from None
    except RecursionError:
        raise RecordError(key, "bad-json", "nested too deeply") from None
