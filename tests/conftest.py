# SPDX-License-Identifier: Apache-2.0
"""What every test can rely on: tests that need root say so and are skipped, with the reason, where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _why_not_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/sys/fs/bpf").exists():
        return "needs a kernel with bpffs"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _why_not_root()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=reason))
