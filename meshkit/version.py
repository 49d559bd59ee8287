# SPDX-License-Identifier: Apache-2.0
"""Which version of the distribution runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def program_version() -> str:
    """The version of the installed distribution; the same for every program of it."""
    try:
        return version("clustermesh")
    except PackageNotFoundError:
        return "unknown"
