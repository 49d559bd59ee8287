# SPDX-License-Identifier: Apache-2.0
"""JSON as a type of ours, in whichever thread.

msgspec finds out what a type is made of when it first decodes one. Threads that do so at once see it half done, and the process
ends by a segmentation fault (of sixteen threads in 87 of 120 processes, with 0.22 and Python 3.11): so it is done by one.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeVar

import msgspec

_T = TypeVar("_T")
_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}
_lock: Final = threading.Lock()


def decode_as(data: bytes | str, type_: type[_T]) -> _T:
    """The JSON document as this type. Raises: msgspec.DecodeError."""
    with _lock:
        decoder = _decoders.get(type_) or _decoders.setdefault(type_, msgspec.json.Decoder(type_))
    made: _T = decoder.decode(data)
    return made


def convert_as(value: Any, type_: type[_T]) -> _T:
    """Plain data, as JSON has it, as this type. Raises: msgspec.ValidationError."""
    with _lock:
        return msgspec.convert(value, type_)
