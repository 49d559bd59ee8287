# SPDX-License-Identifier: Apache-2.0
"""The order in which an endpoint's policy is rewritten. Pure.

Between any two writes every packet is judged as the old or as the new policy judges it. Entries that appear or gain precedence
are put first, the strongest first: the first one that matches a packet is the one that decides it in the new policy.
Entries that vanish or lose precedence come after, the weakest first: the last one to match is the one that decided in the
old policy. A direction that stops being enforced loses its flag before all this, one that starts gains it after.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from agent.tables import RuleKey, RuleValue


class Write(NamedTuple):
    """Put the value, or delete the key where there is none."""

    key: RuleKey
    value: RuleValue | None


def plan_entries(old: Mapping[RuleKey, RuleValue], new: Mapping[RuleKey, RuleValue]) -> list[Write]:
    """The writes that turn `old` into `new`, in an order that is safe at every step."""
    rising: list[Write] = []
    falling: list[tuple[int, Write]] = []
    for key, value in new.items():
        was = old.get(key)
        if was is None or (was != value and value.precedence >= was.precedence):
            rising.append(Write(key, value))
        elif was != value:
            falling.append((was.precedence, Write(key, value)))
    falling += [(value.precedence, Write(key, None)) for key, value in old.items() if key not in new]
    rising.sort(key=lambda w: -w.value.precedence if w.value is not None else 0)
    falling.sort(key=lambda pair: pair[0])
    return [*rising, *(write for _, write in falling)]


def runs(writes: list[Write]) -> list[tuple[bool, list[Write]]]:
    """The same writes in the same order, cut into runs of only puts (true) or only deletes: one map call each."""
    return [(is_put, list(run)) for is_put, run in groupby(writes, key=lambda w: w.value is not None)]
