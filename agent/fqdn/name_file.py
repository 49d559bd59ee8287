# SPDX-License-Identifier: Apache-2.0
"""What pods were told, on disk, so that a restarted agent knows it before it writes a policy."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import msgspec

from agent.fqdn.name_cache import Answer

NAMES: Final = "names.json"
_VERSION: Final = 1
_LONGEST_NAME: Final = 256
_LATEST_S: Final = float(1 << 31)


class _File(msgspec.Struct):
    version: int
    answers: list[Answer]


def encode_answers(answers: Iterable[Answer]) -> bytes:
    """The content of the file."""
    return msgspec.json.encode(_File(_VERSION, list(answers)))


def decode_answers(data: bytes, wall_s: float) -> list[Answer]:
    """Inverse of `encode_answers`; no answer counts longer than the longest TTL from `wall_s` on. Raises: ValueError."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a file of names: {exc}") from exc
    if file.version != _VERSION:
        raise ValueError(f"a file of names of version {file.version}, not {_VERSION}")
    found = []
    for endpoint, name, address, until_s in file.answers:
        ipaddress.ip_address(endpoint)
        ipaddress.ip_address(address)
        if not name.endswith(".") or len(name) > _LONGEST_NAME:
            raise ValueError(f"{name[:64]!r} is not a name")
        found.append(Answer(endpoint, name, address, min(until_s, wall_s + _LATEST_S)))
    return found
