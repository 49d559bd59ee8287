# SPDX-License-Identifier: Apache-2.0
"""What a process of root keeps of its rights once it has opened what only root may open."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

NOBODY: Final = 65534
_CAP_NET_ADMIN: Final = 12
_LAST_CAPABILITY: Final = 63
_KEEP_CAPABILITIES, _DROP_BOUND, _NO_NEW_PRIVILEGES = 8, 24, 38
"""Of prctl(2)."""
_VERSION_3: Final = 0x20080522
"""Of capset(2): two words for each set."""


def keep_net_admin_only() -> None:
    """The process is nobody's, with CAP_NET_ADMIN and nothing else, and neither it nor its children get more again.

    Raises: OSError.
    """
    kernel = ctypes.CDLL(None, use_errno=True)

    def check(result: int, call: str) -> None:
        if result:
            raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")

    for capability in range(_LAST_CAPABILITY + 1):
        if capability != _CAP_NET_ADMIN:
            kernel.prctl(_DROP_BOUND, capability, 0, 0, 0)  # those that the kernel does not know are refused
    check(kernel.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kept = 1 << _CAP_NET_ADMIN
    header = struct.pack("=Ii", _VERSION_3, 0)
    check(kernel.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)), "capset")
    check(kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
