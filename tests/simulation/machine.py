# SPDX-License-Identifier: Apache-2.0
"""A node's machine: maps and interfaces that outlive agents, and how one agent sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from agent.datapath.errors import MapError, MapFullError
from agent.datapath.maps import MapInfo, Maps
from agent.datapath.memory import MemoryMaps, memory_maps, records_in
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting
from agent.datapath.rtnetlink import LinkChanges
from agent.machine import MemoryHost
from meshkit.wake import Wake


class Machine:
    """`interfaces` are the numbers of pods' interfaces by address; change them with `plug` and `unplug`."""

    def __init__(self) -> None:
        self.maps: MemoryMaps = memory_maps(ipv6=True)
        self.interfaces: dict[str, int] = {}
        self.plugged = Wake()
        self.broken: list[str] = []
        self._next_index = 10
        self._rooms: dict[str, int] = {}
        self._watch_invariant()

    def plug(self, address: str) -> None:
        self.interfaces[address] = self._next_index
        self._next_index += 1
        self.plugged.set()

    def unplug(self, address: str) -> None:
        if self.interfaces.pop(address, None) is not None:
            self.plugged.set()

    def set_room(self, name: str, more: int) -> None:
        """The map is no larger than what it has and so many entries more, until faults end.

        Maps are made with their size, so who opened one before goes on with the size that it found.
        """
        found = getattr(self.maps, name)
        self._rooms.setdefault(name, found.info().max_entries)
        found.set_room(found.info().count + more)

    @property
    def is_short(self) -> bool:
        """Whether a map is smaller than it was made."""
        return bool(self._rooms)

    def end_faults(self) -> None:
        """Every map has the room that it was made with, and no write fails."""
        for each in fields(Maps):
            getattr(self.maps, each.name).fail_after(None)
        for name, room in self._rooms.items():
            getattr(self.maps, name).set_room(room)
        self._rooms.clear()

    @staticmethod
    def listen(written: Any, heard: Callable[[Any], None]) -> None:
        """`heard` is called with the key of each record of this map that is written or deleted, after it was."""
        before = written.on_write

        def write(key: Any) -> None:
            before(key)
            heard(key)

        written.on_write = write

    def _watch_invariant(self) -> None:
        """Each write is looked at by the maps themselves; what they find is kept, whoever catches the error."""
        for name in ("services", "backends", "services6", "backends6"):
            found: Any = getattr(self.maps, name)
            found.on_write = self._noting(found.on_write)

    def _noting(self, look: Callable[[Any], None]) -> Callable[[Any], None]:
        def looked(key: Any) -> None:
            try:
                look(key)
            except AssertionError as exc:
                self.broken.append(str(exc))

        return looked


class Writes:
    """What one process may still write, to maps and stores. `left` counts down to its death in the middle of what it does then.

    `reached` counts what befell its writes.
    """

    def __init__(self, on_end: Callable[[], None], reached: Counter[str]) -> None:
        self.is_alive, self.left = True, -1
        self._on_end, self.reached = on_end, reached

    def take(self) -> bool:
        """Whether one more record is written."""
        if self.is_alive and self.left == 0:
            self.is_alive = False
            self.reached["crash between two writes"] += 1
            self._on_end()
        if self.is_alive and self.left > 0:
            self.left -= 1
        return self.is_alive


class ProcessMap:
    """One map as one process sees it: after its death nothing it does arrives."""

    def __init__(self, inner: Any, writes: Writes) -> None:
        self._inner, self._writes = inner, writes

    def update(self, items: Sequence[tuple[Any, Any]]) -> None:
        self._each(self._inner.update, items)

    def update_packed(self, keys: bytes, values: bytes) -> None:
        info = self._inner.info()
        pairs = zip(records_in(keys, info.key_size), records_in(values, info.value_size), strict=True)

        def write(records: Sequence[tuple[bytes, bytes]]) -> None:
            self._inner.update_packed(b"".join([key for key, _ in records]), b"".join([value for _, value in records]))

        self._each(write, list(pairs))

    def delete(self, keys: Sequence[Any]) -> None:
        self._each(self._inner.delete, keys)

    def get(self, key: Any) -> Any:
        return self._inner.get(key)

    def items(self) -> Iterator[tuple[Any, Any]]:
        return self._inner.items()

    def info(self) -> MapInfo:
        return self._inner.info()

    def _each(self, write: Callable[[Sequence[Any]], None], records: Sequence[Any]) -> None:
        try:
            if self._writes.is_alive and self._writes.left < 0:
                write(records)
                return
            for record in records:
                if self._writes.take():
                    write((record,))
        except MapError as exc:
            what = "map full" if isinstance(exc, MapFullError) else "map write failed"
            self._writes.reached[f"{what}{', batch done in part' if exc.done else ''}"] += 1
            raise


class SimulatedHost(MemoryHost):
    """`agent.machine.Host` for one life of an agent on a machine."""

    def __init__(self, machine: Machine, writes: Writes) -> None:
        super().__init__()
        self._machine, self._writes = machine, writes

    def open(self) -> Maps:
        maps = self._machine.maps
        return Maps(**{f.name: ProcessMap(getattr(maps, f.name), self._writes) for f in fields(Maps)})

    def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
        return [self._sight(address, known) for address, known in asked]

    async def changes(self) -> AsyncIterator[LinkChanges]:
        plugged, rung = self._machine.plugged, self._machine.plugged.count
        while True:
            await plugged.wait(rung)
            rung = plugged.count
            yield LinkChanges(is_all=True)

    def _sight(self, address: str, known: int) -> LinkSighting:
        interfaces = self._machine.interfaces
        index = interfaces.get(address)
        if index is None:
            return LinkSighting(is_there=known in interfaces.values())
        return LinkSighting(EndpointInterface(index, f"02:00:00:00:00:{index:02x}", f"02:01:00:00:00:{index:02x}"))
