# SPDX-License-Identifier: Apache-2.0
"""What can go wrong at the kernel boundary, by whether trying again helps."""

from __future__ import annotations

import os

from meshkit.errors import ExhaustedError, PermanentError, TransientError


class KernelError(TransientError):
    """A system call or netlink request failed; `errno` says how."""

    def __init__(self, operation: str, errno: int, detail: str = "") -> None:
        super().__init__(f"{operation}: {os.strerror(errno)}{': ' if detail else ''}{detail}")
        self.operation, self.errno = operation, errno


class LoadError(PermanentError):
    """The kernel or libbpf refuses an object; `tail` is the end of what they said, the verifier's reason included."""

    def __init__(self, path: str, errno: int, tail: str) -> None:
        super().__init__(f"{path}: {os.strerror(errno)}\n{tail}")
        self.path, self.errno, self.tail = path, errno, tail


class MapError(TransientError):
    """A map refused a call; `done` records of the call were applied, in order, before it did."""

    def __init__(self, name: str, operation: str, errno: int, done: int) -> None:
        super().__init__(f"map {name}: {operation} stopped after {done}: {os.strerror(errno)}")
        self.name, self.operation, self.errno, self.done = name, operation, errno, done


class MapFullError(MapError, ExhaustedError):
    """No room for a new key: a health condition, and worth trying again after something was deleted."""
