# SPDX-License-Identifier: Apache-2.0
"""While a program loads its modules."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """What is imported in here stays: nothing is collected meanwhile, and no later collection walks it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
