# SPDX-License-Identifier: Apache-2.0
"""Histories drawn by seeds: nothing that must hold is broken. `make simulate` runs more of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.actors.mixture import WORLDS, make_history
from tests.simulation.history import run_history
from tests.simulation.steps import parse, show

REPOSITORY = Path(__file__).resolve().parents[2]


def simulate(*words: str) -> str:
    """What the command says; it runs where hashes of text are the same on every machine."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("world", "count"), [("small", 30), ("faulty", 15), ("hostile", 10), ("large", 2)])
def test_no_history_breaks_what_must_hold(world: str, count: int) -> None:
    said = simulate("--world", world, "--count", str(count), "--keep-going")
    assert f"{count} histories of {world}, 0 failed" in said


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests/simulation/found").iterdir()), ids=lambda path: path.stem)
def test_a_history_that_failed_once_is_well(path: Path) -> None:
    assert f"{path.name}: well" in simulate("--history", str(path))


@pytest.mark.parametrize("mutant", ["heads-first", "endpoint-ids-anew", "shared-ignored"])
def test_a_fault_made_by_hand_is_found(mutant: str) -> None:
    assert "found by history" in simulate("--mutant", mutant, "--count", "30")


def test_the_same_seed_gives_the_same_history_to_the_last_byte_of_the_maps() -> None:
    setting = WORLDS["small"]
    history = make_history(3, setting, 30)
    first, second = (run_history(3, history, setting.shape) for _ in range(2))
    assert first.faults == second.faults == []
    assert (first.steps, first.seconds, first.trace) == (second.steps, second.seconds, second.trace)
    assert make_history(3, setting, 30) == history


def test_a_history_is_text_that_can_be_read_back() -> None:
    history = make_history(5, WORLDS["small"], 60)
    assert parse(show(history)) == history
