# SPDX-License-Identifier: Apache-2.0
"""Names of the labs that tests make: each run has its own, so that no run removes another's.

A run is a process and everything it starts: `.ci/run` where it says so, else the pytest process that was called. Tests
that run side by side, in workers of pytest-xdist, are one run; a worker's labs end with a letter of its own.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from lab import cleanup
from lab.names import existing_labs, lab_names

VARIABLE: Final = "CLUSTERMESH_TEST_RUN"
WORKER: Final = "PYTEST_XDIST_WORKER"
OWN: Final = re.compile(r"(?:e2e|t|u)(\d{5,})[a-z]{0,2}")
"""Five digits at least: people call their labs t1."""
PROGRAMS: Final = (b"pytest", b".ci/run", b"tests.bench")


def run_id() -> int:
    """The process id of this run."""
    own = os.getppid() if WORKER in os.environ else os.getpid()
    return int(os.environ.get(VARIABLE) or own)


def lab_name(kind: str, suffix: str = "") -> str:
    """The name for a lab of a kind in this run or, where tests run side by side, in this worker: such as `e2e04711b`."""
    worker = os.environ.get(WORKER, "")
    letter = chr(ord("a") + int(worker.removeprefix("gw"))) if worker else ""
    name = f"{kind}{run_id():05}{suffix}{letter}"
    if not OWN.fullmatch(name):
        raise ValueError(
            f"{name!r}: labs of tests are called e2e, t or u, a number of five digits and at most two letters"
        )
    return name


def labs_of(run: int) -> list[str]:
    """The labs of the run that exist."""
    return [name for name in existing_labs() if (found := OWN.fullmatch(name)) and int(found[1]) == run]


def remove_abandoned() -> None:
    """Labs of runs that were killed are gone; those of this run and of others still going on stay, and so do labs of people."""
    for name in existing_labs():
        if is_abandoned(name):
            cleanup.remove_lab(lab_names(name))


def is_abandoned(lab: str) -> bool:
    """Whether a run of tests made it that is not this one, and does not go on."""
    found = OWN.fullmatch(lab)
    return found is not None and int(found[1]) != run_id() and not is_going_on(int(found[1]))


def is_going_on(run: int) -> bool:
    """Whether the process is there and runs tests; its number may belong to another program by now."""
    try:
        words = Path(f"/proc/{run}/cmdline").read_bytes()
    except OSError:
        return False
    return any(program in words for program in PROGRAMS)


if __name__ == "__main__":
    for lab in labs_of(int(sys.argv[1])):
        cleanup.remove_lab(lab_names(lab))
        print(f"removed lab {lab}")
