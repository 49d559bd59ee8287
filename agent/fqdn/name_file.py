# SPDX-License-Identifier: Apache-2.0
"""What pods were told, on disk, so that a restarted agent knows it before it writes a policy."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.answered_names import LONGEST_NAME
from agent.fqdn.name_cache import HeardAddress
from agent.settings import AgentSettings

NAMES: Final = "names.json"
_VERSION: Final = 1
_LATEST_S: Final = float(1 << 31)


def encode_answers(answers: Iterable[HeardAddress]) -> bytes:
    """The content of the file."""
    return msgspec.json.encode((_VERSION, list(answers)))


def decode_answers(data: bytes, wall_s: float) -> list[HeardAddress]:
    """Inverse of `encode_answers`; no answer counts longer than the longest TTL from `wall_s` on. Raises: ValueError."""
    try:
        version, known = msgspec.json.decode(data, type=tuple[int, list[HeardAddress]])
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a file of names: {exc}") from exc
    if version != _VERSION:
        raise ValueError(f"a file of names of version {version}, not {_VERSION}")
    found = []
    for endpoint, name, address, until_s in known:
        ipaddress.ip_address(endpoint)
        ipaddress.ip_address(address)
        if not name.endswith(".") or len(name) > LONGEST_NAME:
            raise ValueError(f"{name[:64]!r} is not a name")
        found.append(HeardAddress(endpoint, name, address, min(until_s, wall_s + _LATEST_S)))
    return found


def directory_of(settings: AgentSettings) -> Path:
    """Where this node's file of names is."""
    return settings.socket.parent / "fqdn"
