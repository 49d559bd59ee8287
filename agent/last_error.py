# SPDX-License-Identifier: Apache-2.0
"""What a proxy's log says of why it does not do what it should."""

from __future__ import annotations

from pathlib import Path


def last_error(log: Path) -> str:
    """The last line of the log that tells of an error; empty if none does."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-50:]
    except OSError:
        return ""
    said = [line for line in lines if "[critical]" in line or "rror" in line]
    return said[-1][:512] if said else ""
