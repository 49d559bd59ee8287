# SPDX-License-Identifier: Apache-2.0
"""The maps of a node in the kernel: bpf(2) with batches on pinned maps. Only "no such entry" means absent."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from agent.datapath import spec, syscall
from agent.datapath.errors import FULL, KernelError, MapError, MapFullError
from agent.datapath.maps import MapInfo, MapRecord, Maps
from agent.datapath.syscall import Command, buffer

K = TypeVar("K", bound=MapRecord)
V = TypeVar("V", bound=MapRecord)
_BATCH: Final = 4096
_ENOTSUPP: Final = 524
_NO_BATCH: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP})


class RawMap:
    """One map of bytes. Calls report (errno, records done) instead of raising, for callers that go on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.details = syscall.map_info(fd)
        self.key_size, self.value_size = self.details.key_size, self.details.value_size
        self.batches_work = True

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self.fd)

    def update(self, keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[int, int]:
        """Write all, in order."""
        return self._write(Command.MAP_UPDATE_BATCH, keys, values)

    def update_packed(self, keys: bytes, values: bytes) -> tuple[int, int]:
        """Write records that stand one after the other, in order."""
        total, done = len(keys) // self.key_size, 0
        if not self.batches_work or total <= 1:
            return self._write_singly(self._apart(keys, self.key_size), self._apart(values, self.value_size))
        key_buffer, value_buffer = buffer(keys), buffer(values)
        first_key, first_value = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
        while done < total:
            addresses = (0, 0, first_key + done * self.key_size, first_value + done * self.value_size)
            error, count = self._batch(Command.MAP_UPDATE_BATCH, addresses, min(_BATCH, total - done))
            if error in _NO_BATCH:
                self.batches_work = False
                error, count = self.update_packed(keys[done * self.key_size :], values[done * self.value_size :])
            done += count
            if error:
                return error, done
        return 0, done

    def delete(self, keys: Sequence[bytes]) -> tuple[int, int]:
        """Remove all, in order; stops at an absent one with ENOENT."""
        return self._write(Command.MAP_DELETE_BATCH, keys, ())

    def get(self, key: bytes, value_size: int = 0) -> bytes | None:
        """The value, or None. Raises: KernelError."""
        key_buffer, value = buffer(key), buffer(bytes(value_size or self.value_size))
        attr = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
        _, error = syscall.call(Command.MAP_LOOKUP_ELEM, buffer(attr))
        if error == errno.ENOENT:
            return None
        if error:
            raise KernelError("MAP_LOOKUP_ELEM", error)
        return value.raw

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries. Raises: KernelError."""
        for count, keys, values in self._chunks():
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(count):
                yield (
                    raw_keys[i * self.key_size : (i + 1) * self.key_size],
                    raw_values[i * self.value_size : (i + 1) * self.value_size],
                )

    def count(self) -> int:
        """How many entries there are; a fiftieth of the cost of looking at them. Raises: KernelError."""
        return sum(count for count, _, _ in self._chunks())

    def _chunks(self) -> Iterator[tuple[int, Any, Any]]:
        """How many entries each chunk has, and the buffers of their keys and values."""
        chunk = _BATCH
        token, cursor = buffer(bytes(max(self.key_size, 8))), 0
        while True:
            keys, values = buffer(bytes(chunk * self.key_size)), buffer(bytes(chunk * self.value_size))
            addresses = (cursor, ctypes.addressof(token), ctypes.addressof(keys), ctypes.addressof(values))
            error, count = self._batch(Command.MAP_LOOKUP_BATCH, addresses, chunk)
            if error == errno.ENOSPC:
                chunk *= 2
                continue
            if error not in (0, errno.ENOENT):
                raise KernelError("MAP_LOOKUP_BATCH", error)
            yield count, keys, values
            if error == errno.ENOENT:
                return
            cursor = ctypes.addressof(token)

    def _batch(self, command: Command, addresses: tuple[int, int, int, int], count: int) -> tuple[int, int]:
        """addresses: of the cursor in, the cursor out, the keys and the values; the kernel says how far it got."""
        attr = buffer(struct.pack("<QQQQIIQQ", *addresses, count, self.fd, 0, 0))
        _, error = syscall.call(command, attr)
        return error, struct.unpack_from("<I", attr.raw, 32)[0]

    def _write(self, command: Command, keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[int, int]:
        done = 0
        while done < len(keys):
            part = slice(done, done + _BATCH)
            error, count = self._write_some(command, keys[part], values[part])
            done += count
            if error:
                return error, done
        return 0, done

    def _write_some(self, command: Command, keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[int, int]:
        if not self.batches_work or len(keys) == 1:
            return self._write_singly(keys, values)
        key_buffer, value_buffer = buffer(b"".join(keys)), buffer(b"".join(values))
        addresses = (0, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer) if values else 0)
        error, count = self._batch(command, addresses, len(keys))
        if error in _NO_BATCH:
            self.batches_work = False
            return self._write_singly(keys, values)
        return error, count

    @staticmethod
    def _apart(packed: bytes, size: int) -> list[bytes]:
        return [packed[at : at + size] for at in range(0, len(packed), size)]

    def _write_singly(self, keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[int, int]:
        single = Command.MAP_UPDATE_ELEM if values else Command.MAP_DELETE_ELEM
        for done, key in enumerate(keys):
            key_buffer, value = buffer(key), buffer(values[done] if values else b"")
            value_address = ctypes.addressof(value) if values else 0
            attr = buffer(struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(key_buffer), value_address, 0))
            _, error = syscall.call(single, attr)
            if error:
                return error, done
        return 0, len(keys)


class KernelMap(Generic[K, V]):
    """One typed map."""

    def __init__(self, map_spec: spec.MapSpec[K, V], raw: RawMap) -> None:
        self._spec, self._raw = map_spec, raw

    def update(self, items: Sequence[tuple[K, V]]) -> None:
        """All items are in the map."""
        encode = self._spec.encode
        keys, values = [k.pack() for k, _ in items], [encode(k, v) for k, v in items]
        self._spec.check_sizes(keys, values)
        self._check(*self._raw.update(keys, values))

    def update_packed(self, keys: bytes, values: bytes) -> None:
        """The same for records that are packed already."""
        if len(keys) * self._spec.value_size != len(values) * self._spec.key_size:
            raise ValueError(f"{self._spec.name} has records of another size")
        self._check(*self._raw.update_packed(keys, values))

    def _check(self, error: int, done: int) -> None:
        if error:
            raise (MapFullError if error in FULL else MapError)(self._spec.name, "update", error, done)

    def delete(self, keys: Sequence[K]) -> None:
        """None of the keys is in the map."""
        packed = [key.pack() for key in keys]
        self._spec.check_sizes(packed)
        position = 0
        while position < len(packed):
            error, done = self._raw.delete(packed[position:])
            position += done
            if error == errno.ENOENT:
                position += 1
            elif error:
                raise MapError(self._spec.name, "delete", error, position)

    def get(self, key: K) -> V | None:
        """The value a packet would find."""
        packed = key.pack()
        self._spec.check_sizes((packed,))
        raw = self._raw.get(packed)
        return None if raw is None else self._spec.value.unpack(raw)

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries."""
        for key, value in self._raw.entries():
            yield self._spec.key.unpack(key), self._spec.value.unpack(value)

    def info(self) -> MapInfo:
        """Name, sizes and the number of entries."""
        sizes = (self._raw.key_size, self._raw.value_size)
        return MapInfo(self._spec.name, self._raw.details.max_entries, self._raw.count(), *sizes)

    def close(self) -> None:
        """Give back the descriptor."""
        self._raw.close()


class ArrayMap(KernelMap[K, V]):
    """An array keeps its indexes: one that is all zero counts as absent."""

    def get(self, key: K) -> V | None:
        """The value a packet would find, if it is not zero."""
        raw = self._raw.get(key.pack())
        return self._spec.value.unpack(raw) if raw is not None and any(raw) else None

    def items(self) -> Iterator[tuple[K, V]]:
        """Every index whose value is not zero."""
        for key, value in self._raw.entries():
            if any(value):
                yield self._spec.key.unpack(key), self._spec.value.unpack(value)

    def delete(self, keys: Sequence[K]) -> None:
        """The values are zero."""
        zero = bytes(self._raw.value_size)
        error, done = self._raw.update([key.pack() for key in keys], [zero] * len(keys))
        if error:
            raise MapError(self._spec.name, "delete", error, done)

    def info(self) -> MapInfo:
        """Name and sizes; count is the number of values that are not zero."""
        sizes = (self._raw.key_size, self._raw.value_size)
        return MapInfo(self._spec.name, self._raw.details.max_entries, sum(1 for _ in self.items()), *sizes)


class PerCpuMap(KernelMap[K, V]):
    """An array with one copy of each value per CPU; values are numbers, read as their sum."""

    def get(self, key: K) -> V | None:
        """The sum over all CPUs."""
        raw = self._raw.get(key.pack(), self._width * possible_cpus())
        return None if raw is None else self._sum(raw)

    def items(self) -> Iterator[tuple[K, V]]:
        """Every index whose value is not zero."""
        size = self._width * possible_cpus()
        for index in range(self._raw.details.max_entries):
            key = struct.pack("<I", index)
            raw = self._raw.get(key, size)
            if raw is not None and any(raw):
                yield self._spec.key.unpack(key), self._sum(raw)

    def update(self, items: Sequence[tuple[K, V]]) -> None:
        """The first CPU holds the value, the others zero."""
        rest = bytes(self._width * (possible_cpus() - 1))
        error, done = self._raw.update([k.pack() for k, _ in items], [v.pack() + rest for _, v in items])
        if error:
            raise MapError(self._spec.name, "update", error, done)

    def delete(self, keys: Sequence[K]) -> None:
        """An array keeps its indexes: deleting sets to zero."""
        zero = self._spec.value.unpack(bytes(self._raw.value_size))
        self.update([(key, zero) for key in keys])

    def info(self) -> MapInfo:
        """Name and sizes; count is the number of values that are not zero."""
        sizes = (self._raw.key_size, self._raw.value_size)
        return MapInfo(self._spec.name, self._raw.details.max_entries, sum(1 for _ in self.items()), *sizes)

    @property
    def _width(self) -> int:
        """Bytes of one CPU's copy."""
        return (self._raw.value_size + 7) & ~7

    def _sum(self, raw: bytes) -> V:
        numbers, fields = struct.unpack(f"<{len(raw) // 8}Q", raw), self._width // 8
        return self._spec.value.unpack(struct.pack(f"<{fields}Q", *(sum(numbers[i::fields]) for i in range(fields))))


@functools.cache  # the same until the next boot
def possible_cpus() -> int:
    """Per-CPU values have one slot per possible CPU. Source: the kernel's list "0-7" or "0,2-3"."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    ranges = (part.partition("-") for part in text.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def open_map(map_spec: spec.MapSpec[K, V], directory: Path) -> KernelMap[K, V]:
    """The pinned map of that name. Raises: KernelError when it is not pinned there."""
    raw = RawMap(syscall.get_pinned(directory / map_spec.name))
    kind = PerCpuMap if map_spec.is_per_cpu else ArrayMap if map_spec.is_array else KernelMap
    return kind(map_spec, raw)


def kernel_maps(pin_directory: Path, *, ipv6: bool = False) -> Maps:
    """The maps pinned by a Datapath under this directory, those of services of IPv6 too if `ipv6`.

    Raises: KernelError when there are none.
    """
    directory = pin_directory / "maps"
    return Maps(
        services=open_map(spec.SERVICES, directory),
        backends=open_map(spec.BACKENDS, directory),
        members=open_map(spec.MEMBERS, directory),
        source_ranges=open_map(spec.SOURCE_RANGES, directory),
        ipcache=open_map(spec.IPCACHE, directory),
        policy=open_map(spec.POLICY, directory),
        endpoints_by_address=open_map(spec.ENDPOINTS_BY_ADDRESS, directory),
        endpoints_by_ifindex=open_map(spec.ENDPOINTS_BY_IFINDEX, directory),
        node=open_map(spec.NODE, directory),
        conntrack_tcp=open_map(spec.CONNTRACK_TCP, directory),
        conntrack_other=open_map(spec.CONNTRACK_OTHER, directory),
        conntrack_opening=open_map(spec.CONNTRACK_OPENING, directory),
        affinity=open_map(spec.AFFINITY, directory),
        sockets=open_map(spec.SOCKETS, directory),
        nat=open_map(spec.NAT, directory),
        metrics=open_map(spec.METRICS, directory),
        probes=open_map(spec.PROBES, directory),
        heartbeat=open_map(spec.HEARTBEAT, directory),
        services6=open_map(spec.SERVICES6, directory) if ipv6 else None,
        backends6=open_map(spec.BACKENDS6, directory) if ipv6 else None,
        members6=open_map(spec.MEMBERS6, directory) if ipv6 else None,
        source_ranges6=open_map(spec.SOURCE_RANGES6, directory) if ipv6 else None,
        affinity6=open_map(spec.AFFINITY6, directory) if ipv6 else None,
    )
