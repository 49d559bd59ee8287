# SPDX-License-Identifier: Apache-2.0
"""`make simulate`: runs histories, and shrinks the first that fails to a short one that can be run as a test."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.simulation.actors.mixture import make_history
from tests.simulation.branches import Branch, Branches
from tests.simulation.campaign import Campaign, Progress
from tests.simulation.command_line import FIXED_HASHES
from tests.simulation.coverage import missing
from tests.simulation.history import digest_history, run_history
from tests.simulation.hunt import apart, drawn, hunt
from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.table import first_histories
from tests.simulation.named_worlds import world_of
from tests.simulation.shrink import shrink
from tests.simulation.steps import parse, show


def main() -> int:
    """0 if every history was well."""
    chosen = _parser().parse_args()
    if not chosen.digest and os.environ.get("PYTHONHASHSEED") != FIXED_HASHES:  # should a set be walked after all
        os.environ["PYTHONHASHSEED"] = FIXED_HASHES
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    seeds = range(chosen.seed, chosen.seed + chosen.count)
    try:
        world_of(chosen.world, chosen.seed)
    except ValueError as exc:
        say(str(exc))
        return 2
    if chosen.history is not None:
        return replay(chosen.history)
    if chosen.mutant is not None:
        found = hunt(chosen.mutant, chosen.world, seeds, chosen.steps)
        say(f"{chosen.mutant}: {found}")
        return 0 if found.history else 1
    if chosen.mutants:
        return hunt_all(chosen.world, seeds, chosen.steps, first_histories() if chosen.known else {})
    if chosen.digest:
        return digest(chosen.world, seeds, chosen.steps)
    return explore(chosen, seeds)


def explore(chosen: argparse.Namespace, seeds: range) -> int:
    """0 if every history was well, and all was reached that is expected, if that was asked."""
    campaign = Campaign(chosen.world, chosen.steps, seeds)
    progress = campaign.load(chosen.resume) if chosen.resume is not None else Progress()
    with Branches() as branches:
        histories = drawn(chosen.world, campaign.left(progress), chosen.steps)
        for branch, outcome in branches.run_all(histories):
            progress.note(branch.seed, outcome)
            if outcome.faults:
                say(
                    f"seed {branch.seed} world {chosen.world}: after step {outcome.at}: "
                    + "; ".join(outcome.faults[:3])
                )
                if not (chosen.keep_going or chosen.resume or chosen.expect):
                    report(branches, branch, outcome.faults, chosen.world)
                    return 1
            if chosen.resume is not None and progress.done % 100 == 0:
                campaign.save(chosen.resume, progress)
    if chosen.resume is not None:
        campaign.save(chosen.resume, progress)
    say(f"{progress.done} histories of {chosen.world}, {len(progress.failed)} failed, {_cpu_s():.1f} CPU s")
    if chosen.reached or chosen.resume is not None:
        say(progress.summary())
    lacking = missing(progress.reached) if chosen.expect else []
    if lacking:
        say("never reached: " + "; ".join(lacking))
    return 1 if progress.failed or lacking else 0


def hunt_all(world: str, seeds: range, length: int, known: Mapping[str, int]) -> int:
    """0 if every fault made by hand is found; says for each by which history, as rows of docs/testing.md.

    `known` is with which seed a hunt begins, where that is not the first.
    """
    lost = 0
    for mutant in MUTANTS:
        left = range(known.get(mutant, seeds.start), seeds.stop)
        found = apart(mutant, world, left, length)
        lost += not found.history
        where = f"{found.seed - seeds.start + 1}" if found.history else f"not by {len(left)}"
        say(f"| `{mutant}` | {where} | {found.fault[:90]} |")
    return 1 if lost else 0


def digest(world: str, seeds: range, length: int) -> int:
    """Says for each seed what every turn of its history and the state at its end come to, as one number."""
    for seed in seeds:
        setting, turns = world_of(world, seed), hashlib.sha256()
        outcome = digest_history(seed, make_history(seed, setting, length), setting.shape, turns)
        say(f"seed {seed}: {outcome.steps} turns, {turns.hexdigest()}")
    return 0


def replay(path: Path) -> int:
    """0 if the history of a file is well."""
    text = path.read_text(encoding="utf-8")
    _, _, seed, _, world = text.split(maxsplit=5)[:5]
    outcome = run_history(int(seed), parse(text), world_of(world, int(seed)).shape)
    say("\n".join(outcome.faults) or f"{path.name}: well")
    return 1 if outcome.faults else 0


def report(branches: Branches, branch: Branch, faults: list[str], world: str) -> None:
    """The shortest history that is found to fail in the same way, as a file under `found/` has it: comments and steps."""
    short, found = shrink(branches.run, branch.seed, branch.shape, branch.history, faults)
    say(f"# seed {branch.seed} world {world}")
    say("\n".join(f"# {fault}" for fault in found))
    say(show(short))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=100, help="how many seeds")
    parser.add_argument("--steps", type=int, default=40, help="length of a history")
    parser.add_argument("--world", default="small", help="`small`, `small-3x2`, `mixed`, ...")
    parser.add_argument("--keep-going", action="store_true", help="report each failing seed, shrink none")
    parser.add_argument("--resume", type=Path, help="keep going, and remember in this file how far it came")
    parser.add_argument("--reached", action="store_true", help="say what was reached, and how often")
    parser.add_argument("--expect", action="store_true", help="keep going, and fail if something is never reached")
    parser.add_argument(
        "--digest", action="store_true", help="say what each history comes to, for two machines to compare"
    )
    parser.add_argument("--history", type=Path, help="a file whose first line is `# seed N world NAME`: run this one")
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), help="with this fault in the product: 0 if a history finds it"
    )
    parser.add_argument("--mutants", action="store_true", help="each of them; 0 if all are found")
    parser.add_argument("--known", action="store_true", help="hunts begin with what docs/testing.md says finds it")
    return parser


def _cpu_s() -> float:
    """Of this process and of those whose end was waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
