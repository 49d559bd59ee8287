# SPDX-License-Identifier: Apache-2.0
"""What every test can rely on.

Tests that need root say so and are skipped, with the reason, where there is none. Property tests run with the profile of
`tests.support.effort`. A test has `timeout` seconds (pyproject.toml), or as many as its own mark says. A run that leaves
anything on the machine fails (`tests.support.leftovers`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from xdist.scheduler import LoadScopeScheduling

from tests.support.effort import load_profile
from tests.support.leftovers import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_unconfigure,
)
from tests.support.side_by_side import BySharedFixtures

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary", "pytest_unconfigure"]
WORKERS = 8
LONGEST_FIRST = (
    "test_simulation_first_half", "test_simulation_second_half", "test_simulation_mutants", "test_relay_page",
    "test_apiserver_operation", "test_protocol_authority", "test_protocol_links", "test_policy_histories",
)  # fmt: skip
"""Files that workers begin with, so that none of them is what a run waits for at its end."""

load_profile()


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def _threads_in_the_machines_namespace() -> None:
    """Worker threads of the session's loop start here, before any test enters a network namespace.

    A thread inherits the namespace of the one that starts it and keeps it: a worker started inside a test's namespace
    would stay there for every later test.
    """
    pool = ThreadPoolExecutor(WORKERS)
    barrier = threading.Barrier(WORKERS)
    for started in [pool.submit(barrier.wait) for _ in range(WORKERS)]:
        started.result()
    asyncio.get_running_loop().set_default_executor(pool)


def _why_not_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/sys/fs/bpf").exists():
        return "needs a kernel with bpffs"
    return None


def _turn(file: str) -> int:
    return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.path.stem))
    reason = _why_not_root()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return BySharedFixtures(config, log)
