# SPDX-License-Identifier: Apache-2.0
"""Our first user's day, replayed word for word by the same program `make lab` runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.labs import lab_name

NAME = lab_name("e2e", "w")


def lab(*words: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *words, "--name", NAME],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture
def running_lab() -> Iterator[None]:
    lab("down")
    up = lab("up", timeout_s=120)
    assert up.returncode == 0, up.stdout + up.stderr
    yield
    down = lab("down", timeout_s=120)
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.mark.timeout(1200)
def test_every_step_of_the_walkthrough_is_as_the_seed_says(running_lab: None) -> None:
    replay = lab("walkthrough")
    print(replay.stdout)
    assert replay.returncode == 0, replay.stdout[-4000:] + replay.stderr[-4000:]
