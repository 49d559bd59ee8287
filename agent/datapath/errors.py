# SPDX-License-Identifier: Apache-2.0
"""What can go wrong at the kernel boundary, by whether trying again helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from meshkit.errors import ExhaustedError, PermanentError, TransientError

FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC})
"""What the kernel answers when a map has no room."""


class KernelError(TransientError):
    """A system call or netlink request failed; `errno` says how."""

    def __init__(self, operation: str, code: int, detail: str = "") -> None:
        super().__init__(f"{operation}: {os.strerror(code)}{': ' if detail else ''}{detail}")
        self.operation, self.errno = operation, code


class OverlayPortTakenError(KernelError):
    """Another VXLAN device, or a program of this node, has the overlay's UDP port."""

    def __init__(self, operation: str, code: int, port: int, devices: Sequence[str]) -> None:
        holder = f"VXLAN device {', '.join(devices)}" if devices else "a program"
        super().__init__(
            operation,
            code,
            f"{holder} of this node has UDP port {port}: give the overlay another one in every cluster of the mesh "
            "(enable --set agent.vxlan-port=PORT --set apiserver.vxlan-port=PORT)",
        )


class UnsupportedKernelError(PermanentError):
    """This kernel lacks what our programs need; the message names it, and the least version that has it."""


class LoadError(PermanentError):
    """The kernel or libbpf refuses an object; `tail` is the end of what they said, the verifier's reason included."""

    def __init__(self, path: str, code: int, tail: str) -> None:
        super().__init__(f"{path}: {os.strerror(code)}\n{tail}")
        self.path, self.errno, self.tail = path, code, tail


class MapError(TransientError):
    """A map refused a call; `done` records of the call were applied, in order, before it did."""

    def __init__(self, name: str, operation: str, code: int, done: int) -> None:
        reason = "the map is full" if code in FULL else os.strerror(code)
        super().__init__(f"map {name}: {operation} stopped after {done}: {reason}")
        self.name, self.operation, self.errno, self.done = name, operation, code, done


class MapFullError(MapError, ExhaustedError):
    """No room for a new key: a health condition, and worth trying again after something was deleted."""
