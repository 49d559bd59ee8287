# SPDX-License-Identifier: Apache-2.0
"""Pinned maps over program versions: taken over when they fit, else replaced beside and swapped.

A map fits when type, sizes and flags are those of the object and its version in mesh_abi is ours. A map that differs in
capacity only keeps its entries (copied); one with other records, of a version that mesh_abi does not tell, or without a pin
starts empty: the agent fills its own maps, what the programs wrote is lost. A map other than the one that programs run on is
taken as it is and counts as one to be filled. Every other map stays as it is. What is no map
at the path of a map is removed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.datapath import spec, syscall
from agent.datapath.errors import KernelError
from agent.datapath.kernel import RawMap
from agent.datapath.libbpf import BpfObject
from agent.datapath.syscall import MapType

log = logging.getLogger(__name__)
_COPIED = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE})
_INDEX = struct.Struct("<I")
_COPY_BATCH = 4096
_KERNEL_NAME = 15
_MAP_FILE = "anon_inode:bpf-map"


class MapPins:
    """The pinned maps of one node: `maps` in use, `staged` on their way in."""

    def __init__(self, directory: Path, running: Sequence[Mapping[str, int]] = ()) -> None:
        """`running`: for each program that runs now, the ids of its maps by name as the kernel keeps it."""
        self.directory, self._staged, self._running = directory / "maps", directory / "staged", running
        self._versions: dict[int, int] = {}
        self._replaced: set[str] = set()
        self._created: set[str] = set()
        self._unknown: set[str] = set()

    def prepare(self) -> None:
        """Directories exist, leftovers of an interrupted replacement are gone."""
        if self._staged.is_dir():
            shutil.rmtree(self._staged)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._staged.mkdir()
        self._versions = self._pinned_versions()

    def choose(self, program_object: BpfObject) -> None:
        """Each map of a not yet loaded object is bound to its pin, or to a staged one when the pin does not fit."""
        for name in program_object.map_names():
            if name in self._created:  # made for another object of this program
                continue
            if not self._is_map(self.directory / name):
                self._created.add(name)
            elif not self._fits(program_object, name):
                program_object.set_pin_path(name, self._staged / name)
                self._replaced.add(name)
            elif not self._runs(name):
                self._unknown.add(name)
                log.warning("the programs that run use another map than the pinned one", extra={"path": name})

    def swap(self) -> bool:
        """Staged maps hold what could be copied and are the pinned ones now. True when the agent need not fill any."""
        doubtful = (self._created | self._unknown) - {spec.ABI_NAME}
        complete = all(spec.ABIS[name].written_by_kernel for name in doubtful)
        for name in sorted(self._replaced):
            complete = (self._copy(name) or spec.ABIS[name].written_by_kernel) and complete
            (self._staged / name).rename(self.directory / name)
            log.warning("replaced a pinned map of another shape", extra={"path": str(self.directory / name)})
        self._replaced.clear()
        self._staged.rmdir()
        self._write_versions()
        return complete

    def _is_map(self, path: Path) -> bool:
        """A map is pinned there. Anything else that stood there (a directory, a program) is gone: a map could not be pinned."""
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            fd = syscall.get_pinned(path)
            try:
                if str(Path(f"/proc/self/fd/{fd}").readlink()) == _MAP_FILE:
                    return True
            finally:
                os.close(fd)
            path.unlink()
        else:
            return False
        log.warning("removed what is no map from the path of a map", extra={"path": str(path)})
        return False

    def _fits(self, program_object: BpfObject, name: str) -> bool:
        fd = syscall.get_pinned(self.directory / name)
        try:
            return self._is_ours(name) and syscall.map_info(fd)._replace(id=0) == program_object.map_spec(name)
        finally:
            os.close(fd)

    def _runs(self, name: str) -> bool:
        """No program runs on another map than the pinned one."""
        fd = syscall.get_pinned(self.directory / name)
        try:
            number = syscall.map_info(fd).id
        finally:
            os.close(fd)
        return all(maps.get(name[:_KERNEL_NAME], number) == number for maps in self._running)

    def _copy(self, name: str) -> bool:
        old, new = (RawMap(syscall.get_pinned(d / name)) for d in (self.directory, self._staged))
        try:
            if new.details.type not in _COPIED:
                return True
            same = (old.details.type, old.key_size, old.value_size) == (new.details.type, new.key_size, new.value_size)
            return same and self._is_ours(name) and self._runs(name) and _copy_entries(old, new)
        finally:
            old.close()
            new.close()

    def _is_ours(self, name: str) -> bool:
        """The records of the pinned map are known to mean what this program takes them for."""
        if name == spec.ABI_NAME:
            return True
        place, version, _ = spec.ABIS[name]
        return self._versions.get(place) == version

    def _pinned_versions(self) -> dict[int, int]:
        """What the pinned mesh_abi says, by place; nothing where there is none. A map it does not name is as old as 0."""
        path = self.directory / spec.ABI_NAME
        if not self._is_map(path):
            return {}
        pinned = RawMap(syscall.get_pinned(path))
        try:
            known = {place: _read(pinned, place) for place in range(pinned.details.max_entries)}
        finally:
            pinned.close()
        if len(known) == 1 or known[spec.ABI_SCHEME.place] != spec.ABI_SCHEME.version:
            return {abi.place: known[spec.ABI_SCHEME.place] for abi in spec.ABIS.values()}
        return known

    def _write_versions(self) -> None:
        entries = [spec.ABI_SCHEME, *spec.ABIS.values()]
        pinned = RawMap(syscall.get_pinned(self.directory / spec.ABI_NAME))
        try:
            error, _ = pinned.update([_INDEX.pack(e.place) for e in entries], [_INDEX.pack(e.version) for e in entries])
        finally:
            pinned.close()
        if error:
            raise KernelError("write the versions of the maps", error)


def _read(pinned: RawMap, place: int) -> int:
    value = pinned.get(_INDEX.pack(place))
    return int(_INDEX.unpack(value)[0]) if value else 0


def _copy_entries(old: RawMap, new: RawMap) -> bool:
    keys: list[bytes] = []
    values: list[bytes] = []
    for key, value in old.entries():
        keys.append(key)
        values.append(value)
    for start in range(0, len(keys), _COPY_BATCH):
        error, _ = new.update(keys[start : start + _COPY_BATCH], values[start : start + _COPY_BATCH])
        if error in (errno.E2BIG, errno.ENOSPC):
            return False
        if error:
            raise KernelError("copy a map", error)
    return True
