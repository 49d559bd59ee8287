# SPDX-License-Identifier: Apache-2.0
"""`make simulate` as tests call it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def simulate(*words: str, **environment: str) -> str:
    """What the command says. Fails with that, failing seeds included, if a history is not well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_thousand(first_seed: int) -> None:
    """A thousand histories of all kinds of worlds are well, and reach everything that is expected of so many."""
    said = simulate("--world", "mixed", "--seed", str(first_seed), "--count", "1000", "--steps", "16", "--expect")
    assert "1000 histories of mixed, 0 failed" in said
