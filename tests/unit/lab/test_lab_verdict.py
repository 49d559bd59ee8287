# SPDX-License-Identifier: Apache-2.0
"""The walkthrough's judge must refuse every wrong split and never a right one."""

from __future__ import annotations

import math
import random

import pytest

from lab.verdict import Tally, both, half_silent, likely_range, only, silence, tally

LOOP = """\
{"Cluster": "Koornacht", "Planet": "N'Zoth"}
{"Cluster": "Tion", "Planet": "Foran Tutha"}
curl: (28) Connection timed out after 2001 milliseconds
curl: (7) Failed to connect to rebel-base port 80
command terminated with exit code 7
"""


def test_outcomes_of_a_curl_loop_are_counted_by_kind() -> None:
    assert tally(LOOP) == Tally({"Koornacht": 1, "Tion": 1}, timeouts=1, others={"7": 1})


def test_a_right_split_is_refused_less_than_once_in_a_billion() -> None:
    low, high = likely_range(60, 0.5)
    outside = sum(math.comb(60, k) for k in range(61) if not low <= k <= high) / 2**60
    assert outside < 1e-9
    wider = sum(math.comb(60, k) for k in range(61) if not low + 1 <= k <= high - 1) / 2**60
    assert wider > 1e-9, "the range is wider than it needs to be"


def test_random_right_splits_pass() -> None:
    rng = random.Random(20)
    for _ in range(2000):
        north = sum(rng.random() < 0.5 for _ in range(60))
        assert not both().problems(Tally({"Koornacht": north, "Tion": 60 - north}, 0), 60)


@pytest.mark.parametrize(
    "found",
    [
        Tally({"Koornacht": 60}, 0),
        Tally({"Koornacht": 55, "Tion": 5}, 0),
        Tally({"Koornacht": 30, "Tion": 29}, 1),
        Tally({"Koornacht": 30, "Tion": 29}, 0, {"7": 1}),
        Tally({"Koornacht": 30, "Tion": 29}, 0),
    ],
    ids=["one side only", "far off", "one time-out", "one refused", "one lost"],
)
def test_a_wrong_split_between_both_is_refused(found: Tally) -> None:
    assert both().problems(found, 60)


def test_one_answer_from_the_wrong_cluster_is_refused() -> None:
    assert only("Tion").problems(Tally({"Tion": 59, "Koornacht": 1}, 0), 60)
    assert not only("Tion").problems(Tally({"Tion": 60}, 0), 60)


def test_silence_is_neither_an_answer_nor_a_refusal() -> None:
    assert not silence().problems(Tally({}, 10), 10)
    assert silence().problems(Tally({}, 9, {"7": 1}), 10)
    assert silence().problems(Tally({"Tion": 1}, 9), 10)


def test_half_silence_needs_both_halves() -> None:
    assert not half_silent("Koornacht").problems(Tally({"Koornacht": 31}, 29), 60)
    assert half_silent("Koornacht").problems(Tally({"Koornacht": 60}, 0), 60)
    assert half_silent("Koornacht").problems(Tally({"Koornacht": 30, "Tion": 1}, 29), 60)


def test_a_change_counts_as_arrived_only_when_every_outcome_is_seen() -> None:
    assert both().is_reached(Tally({"Koornacht": 11, "Tion": 1}, 0))
    assert not both().is_reached(Tally({"Koornacht": 12}, 0))
    assert not only("Tion").is_reached(Tally({"Tion": 11}, 0, {"7": 1}))
