# SPDX-License-Identifier: Apache-2.0
"""Histories drawn by seeds: nothing that must hold is broken. `make simulate` runs more of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.simulation import branches as branches_module
from tests.simulation.__main__ import replay, report
from tests.simulation.actors.mixture import WORLDS, make_history
from tests.simulation.branches import Branch, Branches
from tests.simulation.campaign import Campaign, Progress
from tests.simulation.command_line import REPOSITORY, simulate
from tests.simulation.coverage import EXPECTED, missing
from tests.simulation.history import Outcome, go_on, run_history
from tests.simulation.hunt import drawn
from tests.simulation.named_worlds import world_of
from tests.simulation.steps import KINDS, VERBS, Step, kind_of, parse, show
from tests.simulation.world import Shape, World


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("world", "count"), [("large", 1), ("small-3x2", 2), ("small-6x4", 1)])
def test_no_history_of_a_larger_world_breaks_what_must_hold(world: str, count: int) -> None:
    assert f"{count} histories of {world}, 0 failed" in simulate("--world", world, "--count", str(count))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests/simulation/found").iterdir()), ids=lambda path: path.stem)
def test_a_history_that_failed_once_is_well(path: Path) -> None:
    assert f"{path.name}: well" in simulate("--history", str(path))


def test_the_same_seed_gives_the_same_history_to_the_last_byte_of_the_maps() -> None:
    setting = WORLDS["small"]
    history = make_history(3, setting, 30)
    first, second = (run_history(3, history, setting.shape) for _ in range(2))
    assert first.faults == second.faults == []
    assert (first.steps, first.seconds, first.trace) == (second.steps, second.seconds, second.trace)
    assert make_history(3, setting, 30) == history


def test_a_history_in_a_fork_of_a_started_world_is_the_one_that_a_world_of_its_own_has() -> None:
    setting = WORLDS["small"]
    with Branches() as branches:
        for seed in (4, 12, 4):  # of the same start
            history = make_history(seed, setting, 20)
            assert branches.run(seed, history, setting.shape) == run_history(seed, history, setting.shape)


def test_a_history_in_a_fork_that_others_had_before_is_the_one_that_a_world_of_its_own_has() -> None:
    with Branches() as branches:
        told = {branch.seed: (branch, outcome) for branch, outcome in branches.run_all(drawn("small", range(1, 8), 12))}
    assert list(told) == list(range(1, 8))
    branch, outcome = told[7]
    assert outcome == run_history(branch.seed, branch.history, branch.shape)


def test_a_history_that_ends_its_process_is_a_fault_and_those_after_it_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_or_go_on(world: World, seed: int, history: Sequence[Step]) -> Outcome:
        if seed == 3:
            os._exit(5)
        return go_on(world, seed, history)

    monkeypatch.setattr(branches_module, "go_on", end_or_go_on)
    with Branches() as branches:
        told = {branch.seed: outcome for branch, outcome in branches.run_all(drawn("small", range(1, 6), 4))}
    assert {seed: outcome.faults for seed, outcome in told.items() if outcome.faults} == {
        3: ["the process of seed 3 ended with status 5"]
    }
    assert all(outcome.steps for seed, outcome in told.items() if seed != 3)


def test_the_same_seeds_come_to_the_same_on_every_machine(tmp_path: Path) -> None:
    """The steps, every turn of every program, and the state at the end; hashes of text, time zone, names of files and pids
    differ, and each process is slowed down by the others.
    """
    words = ("--world", "mixed", "--seed", "7", "--count", "3", "--steps", "30", "--digest")
    places: tuple[dict[str, str], ...] = (
        {"PYTHONHASHSEED": "1", "TZ": "UTC"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path)},
    )
    with ThreadPoolExecutor() as pool:
        here, there = pool.map(lambda place: simulate(*words, **place), places)
    assert here.count("turns") == 3
    assert there == here


def test_worlds_have_names() -> None:
    assert world_of("small-6x4", 1).shape == Shape(6, 4)
    assert world_of("faulty-3x2", 1).actors == WORLDS["faulty"].actors
    assert len({(str(world_of("mixed", seed).shape), len(world_of("mixed", seed).actors)) for seed in range(99)}) > 5
    for name in ("nowhere", "small-1x1", "small-7x1", "small-2x5", "mixed-2x1"):
        with pytest.raises(ValueError, match=name.partition("-")[0]):
            world_of(name, 1)


def test_a_campaign_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    campaign = Campaign("quiet", 5, range(3, 7))
    whole, first = Progress(), Progress()
    outcomes = {3: Outcome(reached=Counter(a=1)), 4: Outcome(["bad"]), 5: Outcome(reached=Counter(a=2)), 6: Outcome()}
    for seed in campaign.left(whole):
        whole.note(seed, outcomes[seed])
    for seed in (3, 4):
        first.note(seed, outcomes[seed])
    campaign.save(tmp_path / "progress", first)
    again = campaign.load(tmp_path / "progress")
    assert list(campaign.left(again)) == [5, 6]
    for seed in campaign.left(again):
        again.note(seed, outcomes[seed])
    assert again == whole
    assert again.summary() == "        3 a\n        1 failed, first seed 4: bad"
    with pytest.raises(ValueError, match="name another file"):
        Campaign("quiet", 6, range(3, 7)).load(tmp_path / "progress")


def test_what_is_expected_and_never_reached_is_named() -> None:
    reached = Counter(dict.fromkeys(EXPECTED, 1))
    assert missing(reached) == []
    assert missing(reached - Counter({"step crash": 1})) == ["step crash"]


def test_a_history_is_text_that_can_be_read_back() -> None:
    history = make_history(5, WORLDS["small"], 60)
    assert parse(show(history)) == history


def test_a_history_that_fails_is_printed_as_a_file_that_can_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    history, setting = make_history(5, WORLDS["small"], 20), WORLDS["small"]

    def run(_self: Branches, _seed: int, tried: Sequence[Step], _shape: Shape) -> Outcome:
        return Outcome(["north: bad"] if {"put", "pod"} <= {each.verb for each in tried} else [])

    monkeypatch.setattr(Branches, "run", run)
    report(Branches(), Branch(5, history, setting.shape), ["north: bad"], "small")
    printed = tmp_path / "found.txt"
    printed.write_text(capsys.readouterr().out)
    assert printed.read_text().startswith("# seed 5 world small\n# north: bad\n")
    assert [each.verb for each in parse(printed.read_text())] in (["put", "pod"], ["pod", "put"])
    assert replay(printed) == 0


def test_every_step_that_can_be_written_is_drawn_by_some_history() -> None:
    """A verb, or an argument that stands for one, that no actor uses any more has gone stale."""
    drawn = {kind_of(each) for seed in range(1, 3000) for each in make_history(seed, world_of("mixed", seed), 40)}
    assert VERBS.keys() - {name.partition(" ")[0] for name in drawn} == NEVER_DRAWN
    assert {f"store {what}" for what in ("cut", "down", "up", "wipe", "compact", "revoke", "save")} <= drawn
    assert {"store restore", "store restore-anew", "kube down", "kube up"} <= drawn
    assert {f"put {kind}" for kind in KINDS} <= drawn


NEVER_DRAWN = {"start"}
"""Written by hand only: what was crashed is started again by the world."""
