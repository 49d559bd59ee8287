# SPDX-License-Identifier: Apache-2.0
"""`make simulate`: runs histories, and shrinks the first that fails to a short one that can be run as a test."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.simulation.actors.mixture import WORLDS, Setting, make_history
from tests.simulation.branches import Branches
from tests.simulation.history import run_history
from tests.simulation.mutants import MUTANTS
from tests.simulation.shrink import shrink
from tests.simulation.steps import parse, show

FIXED_HASHES = "0"


def main() -> int:
    """0 if every history was well."""
    if os.environ.get("PYTHONHASHSEED") != FIXED_HASHES:  # sets of text are walked in the same order on every machine
        os.environ["PYTHONHASHSEED"] = FIXED_HASHES
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=100, help="how many seeds")
    parser.add_argument("--steps", type=int, default=40, help="length of a history")
    parser.add_argument("--world", default="small", choices=sorted(WORLDS))
    parser.add_argument("--keep-going", action="store_true", help="report each failing seed, shrink none")
    parser.add_argument("--history", type=Path, help="a file whose first line is `# seed N world NAME`: run this one")
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), help="with this fault in the product: 0 if a history finds it"
    )
    chosen = parser.parse_args()
    if chosen.history is not None:
        return replay(chosen.history)
    if chosen.mutant is not None:
        return hunt(chosen.mutant, WORLDS[chosen.world], range(chosen.seed, chosen.seed + chosen.count), chosen.steps)
    setting, failed = WORLDS[chosen.world], 0
    with Branches() as branches:
        for seed in range(chosen.seed, chosen.seed + chosen.count):
            outcome = branches.run(seed, make_history(seed, setting, chosen.steps), setting.shape)
            if outcome.faults:
                failed += 1
                say(f"seed {seed}: after step {outcome.at}: " + "; ".join(outcome.faults[:3]))
                if not chosen.keep_going:
                    report(branches, seed, setting, chosen.steps, outcome.faults)
                    return 1
    say(f"{chosen.count} histories of {chosen.world}, {failed} failed, {_cpu_s():.1f} CPU s")
    return 1 if failed else 0


def hunt(mutant: str, setting: Setting, seeds: range, length: int) -> int:
    """0 if a history finds the mutant."""
    MUTANTS[mutant]()
    with Branches() as branches:
        for tried, seed in enumerate(seeds, 1):
            outcome = branches.run(seed, make_history(seed, setting, length), setting.shape)
            if outcome.faults:
                say(f"{mutant}: found by history {tried} (seed {seed}): {outcome.faults[0][:160]}")
                return 0
    say(f"{mutant}: not found by {len(seeds)} histories")
    return 1


def replay(path: Path) -> int:
    """0 if the history of a file is well."""
    text = path.read_text(encoding="utf-8")
    _, _, seed, _, world = text.split(maxsplit=5)[:5]
    outcome = run_history(int(seed), parse(text), WORLDS[world].shape)
    say("\n".join(outcome.faults) or f"{path.name}: well")
    return 1 if outcome.faults else 0


def report(branches: Branches, seed: int, setting: Setting, length: int, faults: list[str]) -> None:
    """The shortest history that is found to fail in the same way."""
    short, found = shrink(branches.run, seed, setting.shape, make_history(seed, setting, length), faults)
    say(f"--- {len(short)} steps, seed {seed}, {setting.shape}")
    say(show(short))
    say("--- " + "\n    ".join(found))


def _cpu_s() -> float:
    """Of this process and of those whose end was waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
