# SPDX-License-Identifier: Apache-2.0
"""As much of the protobuf wire format as the endpoint slice record needs: tags, varints, length-delimited fields.

Readers never copy more than they return, never recurse, and raise ValueError for every malformed input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_MAXIMUM_VARINT_BYTES: Final = 10
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))  # most tags, lengths and flags

Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Every field as (number, value): an int for numbers of any width, bytes for the rest, in the order of the wire.

    Raises: ValueError when the message is cut off or no message.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == BYTES:
            size, position = _varint(data, position)
            stop = position + size
            if stop > end:
                raise ValueError("field is cut off")
            yield number, data[position:stop]
            position = stop
        elif kind == VARINT:
            value, position = _varint(data, position)
            yield number, value
        elif kind in (FIXED32, FIXED64):
            stop = position + (4 if kind == FIXED32 else 8)
            if stop > end:
                raise ValueError("field is cut off")
            yield number, int.from_bytes(data[position:stop], "little")
            position = stop
        else:
            raise ValueError(f"wire type {kind}")


def text(value: Value) -> str:
    """A string field; what is no UTF-8 is replaced, as Go keeps it. Raises: ValueError."""
    if not isinstance(value, bytes):
        raise ValueError("expected text, got a number")
    return value.decode("utf-8", "replace")


def message(value: Value) -> bytes:
    """An embedded message. Raises: ValueError."""
    if not isinstance(value, bytes):
        raise ValueError("expected a message, got a number")
    return value


def number(value: Value) -> int:
    """A number field. Raises: ValueError."""
    if not isinstance(value, int):
        raise ValueError("expected a number, got bytes")
    return value


def map_entry(value: Value) -> tuple[str, str]:
    """One entry of a map from text to text. Raises: ValueError."""
    key = content = ""
    for field, part in fields(message(value)):
        if field == 1:
            key = text(part)
        elif field == 2:
            content = text(part)
    return key, content


def put_bytes(field: int, value: bytes | str) -> bytes:
    """A string, bytes or embedded message field."""
    data = value.encode() if isinstance(value, str) else value
    return _encode_varint(field << 3 | BYTES) + _encode_varint(len(data)) + data


def put_text(field: int, value: str) -> bytes:
    """A string field, or nothing when it is empty."""
    return put_bytes(field, value) if value else b""


def put_number(field: int, value: int) -> bytes:
    """A varint field; negative numbers take ten bytes, as protobuf has it."""
    return _encode_varint(field << 3 | VARINT) + _encode_varint(value & 0xFFFFFFFFFFFFFFFF)


def put_map(field: int, values: Mapping[str, str]) -> bytes:
    """A map from text to text, sorted by key."""
    entries = (put_bytes(1, key) + put_bytes(2, content) for key, content in sorted(values.items()))
    return b"".join(put_bytes(field, entry) for entry in entries)


def _encode_varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for offset in range(_MAXIMUM_VARINT_BYTES):
        if position + offset >= len(data):
            raise ValueError("number is cut off")
        byte = data[position + offset]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + offset + 1
        shift += 7
    raise ValueError("number is too long")
