# SPDX-License-Identifier: Apache-2.0
"""What the calls of this package that block ask of the machine: time, chance, a thread, and a flag to wait for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Flag(Protocol):
    """Set once, by any thread."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool:
        """True if it is set before so many seconds have passed."""
        ...


class Blocking(Protocol):
    """How one client's callers run. `monotonic` is in seconds."""

    @property
    def rng(self) -> random.Random: ...

    def monotonic(self) -> float: ...

    def make_flag(self) -> Flag: ...

    def start(self, run: Callable[[], None], name: str) -> None:
        """`run` goes on beside the caller; the program does not wait for it at its end."""
        ...


class SystemBlocking:
    """The machine's clock and threads."""

    def __init__(self) -> None:
        self.rng = random.Random()

    def monotonic(self) -> float:
        return time.monotonic()

    def make_flag(self) -> Flag:
        return threading.Event()

    def start(self, run: Callable[[], None], name: str) -> None:
        threading.Thread(target=run, name=name, daemon=True).start()
