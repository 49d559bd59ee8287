# SPDX-License-Identifier: Apache-2.0
"""A console whose stream is the kernel's full device: the first line that is printed fails as on a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from clustermesh_cli.console import Console


@contextmanager
def on_a_full_disk() -> Iterator[Console]:
    """What runs within must fail because it cannot print."""
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    try:
        with pytest.raises(OSError, match="No space left"):
            yield Console(plain=True, stream=stream)
    finally:
        with suppress(OSError):
            stream.close()
