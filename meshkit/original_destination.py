# SPDX-License-Identifier: Apache-2.0
"""Run a program to which the kernel never says another destination of a connection than the connection's own.

    python -I -S original_destination.py PROGRAM ARGUMENT...

SO_ORIGINAL_DST tells what the stack tracks under the addresses of a socket. That may be another connection than the one of a
transparent socket: one of the other direction, begun by a late packet of a server, or one whose destination a rule of the node
had changed. Envoy, whose filter of that name asks for it, takes the socket's own address where it is refused, which is right
for every socket that our programs chose. Source: seccomp(2), linux/filter.h, linux/audit.h, linux/netfilter_ipv4.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

_GETSOCKOPT: Final = {"x86_64": (0xC000003E, 55), "aarch64": (0xC00000B7, 209)}
"""By machine: how audit(7) names it, and the number of the call."""
_SOL_IP, _SOL_IPV6, _SO_ORIGINAL_DST = 0, 41, 80
_NUMBER, _ARCHITECTURE, _LEVEL, _OPTION = 0, 4, 24, 32
"""Where seccomp_data has them, little-endian."""
_LOAD, _IS_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
"""Of prctl(2)."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_original_destination(machine: str) -> None:
    """From now on this process and those that it runs are not told. They get no more privileges. Raises: OSError."""
    if machine not in _GETSOCKOPT:
        raise OSError(errno.ENOSYS, f"the calls of {machine} are not known")
    kernel = ctypes.CDLL(None, use_errno=True)
    code = _instructions(*_GETSOCKOPT[machine])
    program = _Program(len(code) // 8, code)
    for words in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if kernel.prctl(*words):
            raise OSError(ctypes.get_errno(), f"prctl {words[0]}: {os.strerror(ctypes.get_errno())}")


def _instructions(architecture: int, number: int) -> bytes:
    """Every call is allowed but getsockopt of that option at either level. A jump counts from the instruction after it."""
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE), (_IS_EQUAL, 0, 8, architecture),
        (_LOAD, 0, 0, _NUMBER), (_IS_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, _OPTION), (_IS_EQUAL, 0, 4, _SO_ORIGINAL_DST),
        (_LOAD, 0, 0, _LEVEL), (_IS_EQUAL, 1, 0, _SOL_IP), (_IS_EQUAL, 0, 1, _SOL_IPV6),
        (_RETURN, 0, 0, _FAIL | errno.ENOENT),
        (_RETURN, 0, 0, _ALLOW),
    )  # fmt: skip
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


if __name__ == "__main__":
    refuse_original_destination(os.uname().machine)
    os.execvp(sys.argv[1], sys.argv[1:])
