# SPDX-License-Identifier: Apache-2.0
"""What a store that runs full needs, decided from its status alone."""

from __future__ import annotations

import math

import pytest

from kvstore.store import Status
from kvstore.upkeep import EARLY_INTERVAL_S, FULL_INTERVAL_S, Step, decide

MIB = 1 << 20
QUOTA = 100 * MIB
ALARM = ("memberID:1 alarm:NOSPACE ",)


def status(size: float, used: float, *alarms: str) -> Status:
    return Status("3.4.23", 1, 10, int(size * MIB), alarms, int(used * MIB))


@pytest.mark.parametrize(
    ("found", "since_s", "step", "words"),
    [
        (status(0, 0), math.inf, Step.NOTHING, ""),
        (status(79, 79), math.inf, Step.NOTHING, ""),
        (status(81, 81), math.inf, Step.MAKE_ROOM, "nearly full"),
        (status(81, 81), EARLY_INTERVAL_S, Step.MAKE_ROOM, "nearly full"),
        (status(81, 81), EARLY_INTERVAL_S - 1, Step.NOTHING, "nearly full"),
        # a large file with room inside is left alone, a mostly empty one is made small
        (status(90, 60), math.inf, Step.NOTHING, ""),
        (status(90, 44), math.inf, Step.MAKE_ROOM, ""),
        (status(90, 44), 0, Step.NOTHING, ""),
        # with the alarm: room first, and the alarm goes only if there is some
        (status(101, 99, *ALARM), math.inf, Step.MAKE_ROOM, "takes no records"),
        (status(101, 10, *ALARM), math.inf, Step.MAKE_ROOM, "takes no records"),
        (status(101, 99, *ALARM), FULL_INTERVAL_S - 1, Step.NOTHING, "takes no records"),
        (status(91, 91, *ALARM), math.inf, Step.MAKE_ROOM, "takes no records"),
        (status(89, 89, *ALARM), 0, Step.DISARM, ""),
        (status(5, 5, *ALARM), 0, Step.DISARM, ""),
        # no other alarm is ever disarmed
        (status(5, 5, "memberID:1 alarm:CORRUPT "), math.inf, Step.NOTHING, "CORRUPT"),
        (status(101, 5, "memberID:1 alarm:CORRUPT ", *ALARM), math.inf, Step.NOTHING, "CORRUPT"),
    ],
)
def test_what_a_store_needs(found: Status, since_s: float, step: Step, words: str) -> None:
    upkeep = decide(found, QUOTA, since_s=since_s)
    assert upkeep.step is step
    assert words in upkeep.problem
    assert bool(upkeep.problem) is bool(words)
