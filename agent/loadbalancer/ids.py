# SPDX-License-Identifier: Apache-2.0
"""Ids of backends and services in the maps. Pure.

An id follows from what it stands for. So it is the same after a restart, after the service was deleted and made again, and in a
map built anew; and an id that connections still remember is not given to somebody else. Where two share a hash, who comes
later takes the next free number.
"""

from __future__ import annotations

from zlib import crc32

_LARGEST = (1 << 32) - 1


def natural_id(address: str, port: int, protocol: str, cluster_id: int = 0) -> int:
    """1..2^32-1, also for what no map can hold."""
    return crc32(f"{address}|{port}|{protocol}|{cluster_id}".encode("utf-8", "replace")) or 1


def free_id(wanted: int, taken: set[int]) -> int:
    """The wanted id, or the next one that nobody has. It is taken from here on."""
    while wanted in taken:
        wanted = wanted % _LARGEST + 1
    taken.add(wanted)
    return wanted
