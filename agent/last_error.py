# SPDX-License-Identifier: Apache-2.0
"""What a proxy's log says of why it does not do what it should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 64 << 10
"""A log may have many MiB, and it is looked at several times a second while a port is closed."""


def last_error(log: Path) -> str:
    """The last line at the end of the log that tells of an error; empty if none does."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-50:]
    except OSError:
        return ""
    said = [line for line in lines if "[critical]" in line or "rror" in line]
    return said[-1][:512] if said else ""
