# SPDX-License-Identifier: Apache-2.0
"""ctypes face of libbpf.so.1: open an ELF object, set constants, sizes and pins, load it. Raises LoadError.

Source: libbpf 1.x's bpf/libbpf.h. Nothing here knows our maps or programs.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from pathlib import Path
from typing import Any, Final

from agent.datapath.errors import LoadError
from agent.datapath.syscall import KernelMapInfo

_POINTER, _STRING, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
_TAIL_LINES: Final = 40
_VERIFIER_STATS: Final = 4
_log: deque[str] = deque(maxlen=400)


class _OpenOptions(ctypes.Structure):
    _fields_ = (
        ("sz", _SIZE),
        ("object_name", _STRING),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", _STRING),
        ("pad", ctypes.c_uint32),
        ("kconfig", _STRING),
        ("btf_custom_path", _STRING),
        ("kernel_log_buf", _POINTER),
        ("kernel_log_size", _SIZE),
        ("kernel_log_level", ctypes.c_uint32),
        ("pad2", ctypes.c_uint32),
    )


class _Library:
    """libbpf, loaded when the first object is opened, so that importing needs no library."""

    _instance: _Library | None = None

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        self._libc = ctypes.CDLL(None)
        self._print_type = ctypes.CFUNCTYPE(_INT, _INT, _STRING, _POINTER)
        self._print = self._print_type(self._remember)  # libbpf keeps the pointer: so must we
        self.function("libbpf_set_print", _POINTER, self._print_type)(self._print)

    @classmethod
    def get(cls) -> _Library:
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def _remember(self, level: int, form: bytes, arguments: int) -> int:
        text = ctypes.create_string_buffer(8192)
        self._libc.vsnprintf(text, _SIZE(len(text)), form, _POINTER(arguments))
        if level < 2:
            _log.extend(text.value.decode(errors="replace").rstrip().splitlines())
        return 0


class BpfObject:
    """One ELF object: configure between construction and load()."""

    def __init__(self, path: Path, pin_root: Path) -> None:
        self._path, self._library = path, _Library.get()
        root = os.fsencode(pin_root)
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), pin_root_path=root)
        _log.clear()
        self._object = self._call("bpf_object__open_file", _POINTER, _STRING, _POINTER)(
            os.fsencode(path), ctypes.byref(options)
        )
        if not self._object:
            raise LoadError(str(path), ctypes.get_errno(), self._tail())
        self._maps = self._children("bpf_object__next_map", "bpf_map__name")
        self._programs = self._children("bpf_object__next_program", "bpf_program__name")
        self._log_buffers: dict[str, ctypes.Array[ctypes.c_char]] = {}

    def map_names(self) -> list[str]:
        """The declared maps; sections such as .rodata are not among them."""
        return [name for name in self._maps if "." not in name]

    def map_spec(self, name: str) -> KernelMapInfo:
        """Type and sizes a map will be created with; its id is 0."""
        fields = ("type", "key_size", "value_size", "max_entries", "map_flags")
        numbers = [self._call(f"bpf_map__{f}", ctypes.c_uint32, _POINTER)(self._maps[name]) for f in fields]
        return KernelMapInfo(numbers[0], 0, *numbers[1:])

    def set_max_entries(self, name: str, count: int) -> None:
        """The map will have room for that many."""
        self._check(self._call("bpf_map__set_max_entries", _INT, _POINTER, ctypes.c_uint32)(self._maps[name], count))

    def set_pin_path(self, name: str, path: Path) -> None:
        """The map will be taken from or pinned at this path."""
        set_path = self._call("bpf_map__set_pin_path", _INT, _POINTER, _STRING)
        self._check(set_path(self._maps[name], os.fsencode(path)))

    def set_constants(self, data: bytes) -> None:
        """The .rodata section starts with this data."""
        section = next(m for name, m in self._maps.items() if name.endswith(".rodata"))
        size = _SIZE()
        start = self._call("bpf_map__initial_value", _POINTER, _POINTER, ctypes.POINTER(_SIZE))(
            section, ctypes.byref(size)
        )
        if len(data) > size.value:
            raise ValueError(f"{len(data)} bytes of constants, room for {size.value}")
        ctypes.memmove(start, data, len(data))

    def set_program_type(self, program_type: int, attach_type: int) -> None:
        """All programs are of this type, whatever libbpf takes their sections for: old ones do not know all names."""
        set_type = self._call("bpf_program__set_type", _INT, _POINTER, _INT)
        set_attach = self._call("bpf_program__set_expected_attach_type", _INT, _POINTER, _INT)
        for program in self._programs.values():
            self._check(set_type(program, program_type))
            self._check(set_attach(program, attach_type))

    def keep_statistics(self) -> None:
        """statistics() will answer after load()."""
        set_level = self._call("bpf_program__set_log_level", _INT, _POINTER, ctypes.c_uint32)
        set_buffer = self._call("bpf_program__set_log_buf", _INT, _POINTER, _POINTER, _SIZE)
        for name, program in self._programs.items():
            self._log_buffers[name] = log = ctypes.create_string_buffer(1 << 16)
            set_level(program, _VERIFIER_STATS)
            set_buffer(program, ctypes.addressof(log), len(log))

    def statistics(self) -> dict[str, str]:
        """What the verifier says about each program's cost: "processed N insns ..." and "stack depth a+b"."""
        return {name: log.value.decode(errors="replace") for name, log in self._log_buffers.items()}

    def load(self) -> None:
        """Programs are verified and in the kernel, maps created or taken from their pins."""
        _log.clear()
        self._check(self._call("bpf_object__load", _INT, _POINTER)(self._object))

    def map_fd(self, name: str) -> int:
        """After load(), until close()."""
        return int(self._call("bpf_map__fd", _INT, _POINTER)(self._maps[name]))

    def program_names(self) -> list[str]:
        """Every program of the object."""
        return list(self._programs)

    def program_fd(self, name: str) -> int:
        """Valid until close()."""
        return int(self._call("bpf_program__fd", _INT, _POINTER)(self._programs[name]))

    def close(self) -> None:
        """Descriptors are given back; what is pinned or attached stays."""
        if self._object:
            self._call("bpf_object__close", None, _POINTER)(self._object)
            self._object = None

    def _children(self, advance: str, name_of: str) -> dict[str, int]:
        step = self._call(advance, _POINTER, _POINTER, _POINTER)
        name = self._call(name_of, _STRING, _POINTER)
        found: dict[str, int] = {}
        child = step(self._object, None)
        while child:
            found[name(child).decode()] = child
            child = step(self._object, child)
        return found

    def _call(self, name: str, result: Any, *arguments: Any) -> Any:
        return self._library.function(name, result, *arguments)

    def _check(self, result: int) -> None:
        if result < 0:
            raise LoadError(str(self._path), -result, self._tail())

    def _tail(self) -> str:
        return "\n".join(list(_log)[-_TAIL_LINES:])
