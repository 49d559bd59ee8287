# SPDX-License-Identifier: Apache-2.0
"""Entries of the service, member and backend maps as bytes, many at a time: what their records of `layout` pack to.

A large write is half a million records, and an object for each of them would cost more than the kernel takes to store it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from agent.datapath.address import FAMILY_IPV6, family_of, pack4, pack16

_KEY_END: Final = struct.Struct("<HBBH")
_PLACE_END: Final = struct.Struct(">HBB")
_CLUSTER: Final = struct.Struct("<HBB")
_WORDS: Final = 3  # u32 in a service value: backend, service, and what only slot 0 has
_PRESENT: Final = (1).to_bytes(4, "little")
_key_ends: dict[int, list[bytes]] = {}  # by protocol, for slots 0, 1, ...: as many as the largest service has


def key_start(address: str, port: int) -> bytes:
    """What the keys of one frontend begin with. Raises: ValueError when no map can hold it."""
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port {port} is not in 0..65535")
    packed = pack16(address) if family_of(address) == FAMILY_IPV6 else pack4(address)
    return packed + port.to_bytes(2, "big")


def head_key(start: bytes, protocol: int) -> bytes:
    """The key of slot 0. Raises: ValueError for a protocol that is no number of IP."""
    return start + _ends(protocol, 0)[0]


def slot_keys(start: bytes, protocol: int, count: int) -> bytes:
    """The keys of slots 1 to `count`. Raises: ValueError for more than a frontend can have."""
    return start + start.join(_ends(protocol, count)[1 : count + 1]) if count else b""


def slot_keys_of(start: bytes, protocol: int, slots: Sequence[int]) -> bytes:
    """The keys of these slots, in this order."""
    ends = _ends(protocol, max(slots, default=0))
    return b"".join([start + ends[slot] for slot in slots])


def slot_values(backend_ids: Sequence[int], service_ids: Sequence[int]) -> bytes:
    """The values of slots that lead to these backends, each of its service."""
    return _rows(_WORDS, backend_ids, service_ids)


def member_keys(service_ids: Sequence[int], backend_ids: Sequence[int]) -> bytes:
    """That each of the backends is a member of the service beside it."""
    return _rows(2, service_ids, backend_ids)


def member_values(count: int) -> bytes:
    """So many times that a member is there."""
    return _PRESENT * count


def backend_keys(ids: Sequence[int]) -> bytes:
    return _rows(1, ids)


def backend_values(places: Iterable[tuple[str, bytes]]) -> bytes:
    """Values from addresses, and what `backend_end` says of the rest. Raises: ValueError."""
    try:
        return b"".join([inet_pton(AF_INET6 if ":" in address else AF_INET, address) + end for address, end in places])
    except OSError as exc:
        raise ValueError(f"an address is of neither family: {exc}") from exc


@lru_cache(maxsize=4096)
def backend_end(port: int, protocol: int, state: int, cluster_id: int) -> bytes:
    """A backend's value after its address: few differ in it. Raises: ValueError."""
    try:
        return _PLACE_END.pack(port, protocol, state) + _CLUSTER.pack(cluster_id, 0, 0)
    except struct.error as exc:
        raise ValueError(f"port {port}, protocol {protocol}, cluster {cluster_id}: {exc}") from exc


def _ends(protocol: int, slot: int) -> Sequence[bytes]:
    """The ends of keys, at least up to this slot. Raises: ValueError."""
    ends = _key_ends.get(protocol, [])
    if len(ends) <= slot:
        try:
            ends = [*ends, *(_KEY_END.pack(n, protocol, 0, 0) for n in range(len(ends), slot + 1))]
        except struct.error as exc:
            raise ValueError(f"protocol {protocol}, slot {slot}: {exc}") from exc
        _key_ends[protocol] = ends
    return ends


def _rows(width: int, *columns: Sequence[int]) -> bytes:
    """Rows of so many u32 as the kernel reads them, from their first columns; the others are zero."""
    cells = array("I", bytes(4 * width * len(columns[0])))
    for n, column in enumerate(columns):
        cells[n::width] = array("I", column)
    if sys.byteorder == "big":
        cells.byteswap()
    return cells.tobytes()
