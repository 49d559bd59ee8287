# SPDX-License-Identifier: Apache-2.0
"""`make simulate` as tests call it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FIXED_HASHES = "0"
"""For Python's hashes of text: should a set be walked after all."""
EACH = 1000
"""How many histories each of the two workers of CI's tests runs."""


def simulate(*words: str, **environment: str) -> str:
    """What the command says. Fails with that, failing seeds included, if a history is not well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONHASHSEED": FIXED_HASHES} | environment,  # else it starts, and imports, twice
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_half(first_seed: int) -> None:
    """Half of CI's histories of all kinds of worlds are well, and reach everything that is expected of so many."""
    words = ("--world", "mixed", "--seed", str(first_seed), "--count", str(EACH), "--steps", "16", "--expect")
    assert f"{EACH} histories of mixed, 0 failed" in simulate(*words)
