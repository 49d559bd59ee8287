# SPDX-License-Identifier: Apache-2.0
"""The maps of a node in memory, for tests and dry runs: the kernel's contract, plus faults and invariant checks.

A record that the kernel could not store (a number too large, a bad prefix) is refused here too: every write packs.
"""

from __future__ import annotations

import errno
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent.datapath import spec
from agent.datapath.errors import MapError, MapFullError
from agent.datapath.layout import BackendKey, BackendValue, ServiceKey, ServiceValue
from agent.datapath.maps import MapInfo, MapRecord, Maps

K = TypeVar("K", bound=MapRecord)
V = TypeVar("V", bound=MapRecord)
_PREFIX_LENGTH = struct.Struct("<I")


class MemoryMap(Generic[K, V]):
    """One map. `on_write` runs after every single record written or deleted."""

    def __init__(self, map_spec: spec.MapSpec[K, V], max_entries: int | None = None) -> None:
        self._spec = map_spec
        self._max_entries = max_entries or map_spec.max_entries
        self._entries: dict[bytes, tuple[K, V]] = {}
        self._lengths: defaultdict[int, int] = defaultdict(int)
        self._writes_left: int | None = None
        self._fails_for_good = False
        self.on_write: Callable[[K], None] = lambda _key: None
        self.writes = 0

    def fail_after(self, writes: int | None, *, for_good: bool = False) -> None:
        """The write after `writes` successful ones raises MapError: once, or each from then on. None: none does."""
        self._writes_left, self._fails_for_good = writes, for_good

    def set_room(self, max_entries: int) -> None:
        """No entry more than so many is taken from now on; those that are there stay."""
        self._max_entries = max_entries

    def update(self, items: Sequence[tuple[K, V]]) -> None:
        """All items are in the map."""
        for done, (key, value) in enumerate(items):
            raw = self._canonical(key.pack())
            self._spec.check_sizes((raw,), (value.pack(),))
            self._fault("update", done)
            if raw not in self._entries:
                if len(self._entries) >= self._max_entries:
                    raise MapFullError(self._spec.name, "update", errno.E2BIG, done)
                self._lengths[self._length(raw)] += 1
            self._entries[raw] = (key, value)
            self.writes += 1
            self.on_write(key)

    def update_packed(self, keys: bytes, values: bytes) -> None:
        """The same for records that are packed already."""
        pairs = zip(records_in(keys, self._spec.key_size), records_in(values, self._spec.value_size), strict=True)
        self.update([(self._spec.key.unpack(key), self._spec.value.unpack(value)) for key, value in pairs])

    def delete(self, keys: Sequence[K]) -> None:
        """None of the keys is in the map."""
        for done, key in enumerate(keys):
            raw = self._canonical(key.pack())
            self._fault("delete", done)
            if self._entries.pop(raw, None) is None:
                continue
            self._lengths[self._length(raw)] -= 1
            self.writes += 1
            self.on_write(key)

    def get(self, key: K) -> V | None:
        """The value of this key, or of its longest prefix."""
        raw = key.pack()
        if not self._spec.is_prefix_map:
            entry = self._entries.get(raw)
            return entry[1] if entry else None
        limit = self._length(raw)
        for length in sorted((n for n, used in self._lengths.items() if used and n <= limit), reverse=True):
            entry = self._entries.get(self._canonical(_PREFIX_LENGTH.pack(length) + raw[4:]))
            if entry:
                return entry[1]
        return None

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries."""
        yield from list(self._entries.values())

    def info(self) -> MapInfo:
        """Name, sizes and the number of entries."""
        sizes = (self._spec.key_size, self._spec.value_size)
        return MapInfo(self._spec.name, self._max_entries, len(self._entries), *sizes)

    def _length(self, raw: bytes) -> int:
        return int(_PREFIX_LENGTH.unpack_from(raw)[0]) if self._spec.is_prefix_map else 0

    def _canonical(self, raw: bytes) -> bytes:
        """Clear the bits a prefix map ignores."""
        if not self._spec.is_prefix_map:
            return raw
        width = (len(raw) - 4) * 8
        keep = ~((1 << (width - self._length(raw))) - 1)
        return raw[:4] + (int.from_bytes(raw[4:], "big") & keep).to_bytes(len(raw) - 4, "big")

    def _fault(self, operation: str, done: int) -> None:
        if self._writes_left is None:
            return
        if self._writes_left == 0:
            self._writes_left = 0 if self._fails_for_good else None
            raise MapError(self._spec.name, operation, errno.ENOMEM, done)
        self._writes_left -= 1


def records_in(packed: bytes, size: int) -> Iterator[bytes]:
    """Records of this size, one by one."""
    return (packed[at : at + size] for at in range(0, len(packed), size))


class HoleError(AssertionError):
    """A packet could meet a published slot that leads nowhere: invariant 1 is broken."""


class _Holes:
    """Invariant 1 of the services of one family."""

    def __init__(
        self, services: MemoryMap[ServiceKey, ServiceValue], backends: MemoryMap[BackendKey, BackendValue]
    ) -> None:
        self._services, self._backends = services, backends
        self._published: defaultdict[int, set[ServiceKey]] = defaultdict(set)
        services.on_write = self._check_frontend
        backends.on_write = self._check_backend

    def check(self) -> None:
        """Each slot up to its frontend's count exists and names an existing backend. Raises: HoleError."""
        for entry in self._services.items():
            if entry[0].slot == 0:
                self._check_frontend(entry[0])

    def _check_frontend(self, key: ServiceKey) -> None:
        head = self._services.get(key._replace(slot=0))
        for slot in range(1, (head.count if head else 0) + 1):
            slot_key = key._replace(slot=slot)
            value = self._services.get(slot_key)
            if value is None:
                raise HoleError(f"slot {slot_key} is published and missing")
            self._published[value.backend_id].add(slot_key)
            if self._backends.get(BackendKey(value.backend_id)) is None:
                raise HoleError(f"slot {slot_key} names the missing backend {value.backend_id}")

    def _check_backend(self, key: BackendKey) -> None:
        if self._backends.get(key) is not None:
            return
        for slot_key in list(self._published[key.id]):
            value = self._services.get(slot_key)
            if value is None or value.backend_id != key.id:
                self._published[key.id].discard(slot_key)
            else:
                self._check_frontend(slot_key)


@dataclass(frozen=True, slots=True)
class MemoryMaps(Maps):
    """Maps in memory that check invariant 1 after every single write of services and backends."""

    _holes: list[_Holes] = field(default_factory=list, repr=False)

    def check(self) -> None:
        """Each slot up to its frontend's count exists and names an existing backend. Raises: HoleError."""
        for holes in self._holes:
            holes.check()


def memory_maps(max_entries: dict[str, int] | None = None, *, ipv6: bool = False) -> MemoryMaps:
    """Empty maps, those of services of IPv6 too if `ipv6`; `max_entries` by map name replaces the default sizes."""
    sizes = max_entries or {}

    def make(map_spec: spec.MapSpec[K, V]) -> MemoryMap[K, V]:
        return MemoryMap(map_spec, sizes.get(map_spec.name))

    def make6(map_spec: spec.MapSpec[K, V]) -> MemoryMap[K, V] | None:
        return make(map_spec) if ipv6 else None

    services, backends = make(spec.SERVICES), make(spec.BACKENDS)
    services6, backends6 = make6(spec.SERVICES6), make6(spec.BACKENDS6)
    holes = [_Holes(services, backends)]
    if services6 is not None and backends6 is not None:
        holes.append(_Holes(services6, backends6))
    return MemoryMaps(
        services=services,
        backends=backends,
        members=make(spec.MEMBERS),
        source_ranges=make(spec.SOURCE_RANGES),
        ipcache=make(spec.IPCACHE),
        policy=make(spec.POLICY),
        endpoints_by_address=make(spec.ENDPOINTS_BY_ADDRESS),
        endpoints_by_ifindex=make(spec.ENDPOINTS_BY_IFINDEX),
        node=make(spec.NODE),
        conntrack_tcp=make(spec.CONNTRACK_TCP),
        conntrack_other=make(spec.CONNTRACK_OTHER),
        conntrack_opening=make(spec.CONNTRACK_OPENING),
        affinity=make(spec.AFFINITY),
        sockets=make(spec.SOCKETS),
        nat=make(spec.NAT),
        metrics=make(spec.METRICS),
        probes=make(spec.PROBES),
        heartbeat=make(spec.HEARTBEAT),
        services6=services6,
        backends6=backends6,
        members6=make6(spec.MEMBERS6),
        source_ranges6=make6(spec.SOURCE_RANGES6),
        affinity6=make6(spec.AFFINITY6),
        _holes=holes,
    )
