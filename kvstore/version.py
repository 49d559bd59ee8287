# SPDX-License-Identifier: Apache-2.0
"""Which releases of etcd hold what their roles promise. Pure."""

from __future__ import annotations

from typing import Final

# CVE-2026-33343 (nested transactions), CVE-2026-33413 (calls without check), GHSA-xg4h-6gfc-h4m8 (open-ended watch)
FIXED: Final = {(3, 5): 33, (3, 6): 14, (3, 7): 1}


def holds_roles(version: str) -> bool:
    """True if a reader cannot get round its role in this release; unknown texts count as not holding."""
    try:
        major, minor, patch = (int(part) for part in version.partition("-")[0].split("."))
    except ValueError:
        return False
    if (major, minor) > max(FIXED):
        return True
    return patch >= FIXED[major, minor] if (major, minor) in FIXED else False


def fixed_releases() -> str:
    """The first releases that hold, for a warning."""
    return ", ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in FIXED.items())
