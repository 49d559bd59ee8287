# SPDX-License-Identifier: Apache-2.0
"""Which programs go on with packets of IPv6: the entries of mesh_calls. Source: program_place in bpf/maps.h.

Where an entry is missing, packets of IPv6 are as if there were no such program: dropped where a policy would have to be asked.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.datapath import syscall
from agent.datapath.errors import KernelError
from agent.datapath.kernel import RawMap

IPV6_OBJECT: Final = "mesh_ipv6.bpf.o"
IPV6_PROGRAMS: Final = ("mesh_from_container6", "mesh_to_container6", "mesh_from_overlay6")
"""By place."""
_NUMBER: Final = struct.Struct("<I")


class Ipv6Calls:
    """`pin` is where the map is pinned, `programs` by name are what this process loaded; none of IPv6 among them: nobody
    goes on with it."""

    def __init__(self, pin: Path, programs: Mapping[str, int]) -> None:
        self._pin, self._programs = pin, programs

    def missing(self, *, with_running: bool = True) -> list[str]:
        """Of IPV6_PROGRAMS those that do not run as loaded here; without `with_running`: those in whose place none runs."""
        with self._opened() as calls:
            return self._missing(calls, with_running=with_running)

    def settle(self, *, with_running: bool = True) -> None:
        """Nothing is missing any more. Raises: KernelError."""
        with self._opened() as calls:
            for name in self._missing(calls, with_running=with_running):
                key, program = _NUMBER.pack(IPV6_PROGRAMS.index(name)), self._programs.get(name)
                if program is None:
                    error, _ = calls.delete([key])
                else:
                    error, _ = calls.update([key], [_NUMBER.pack(program)])
                if error not in (0, errno.ENOENT):
                    raise KernelError("let a program go on with IPv6", error, name)

    def _missing(self, calls: RawMap, *, with_running: bool) -> list[str]:
        found = []
        for place, name in enumerate(IPV6_PROGRAMS):
            value, wanted = calls.get(_NUMBER.pack(place)), self._programs.get(name)
            running = None if value is None else _NUMBER.unpack(value)[0]
            if wanted is None:
                if running is not None and with_running:
                    found.append(name)
            elif running is None or (with_running and running != syscall.program_id(wanted)):
                found.append(name)
        return found

    @contextmanager
    def _opened(self) -> Iterator[RawMap]:
        calls = RawMap(syscall.get_pinned(self._pin))
        try:
            yield calls
        finally:
            calls.close()
