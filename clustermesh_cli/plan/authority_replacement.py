# SPDX-License-Identifier: Apache-2.0
"""What to write next so that a new authority takes the place of the old one and nobody is refused meanwhile. Pure.

Asked again after every write and after every interruption; each answer is safe whatever was done before. Programs see what is
written up to `SETTLE_S` later, when the kubelets have renewed what is mounted: nothing that depends on it is done before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from certs.authority_secret import AuthorityPhase

SETTLE_S: Final = 150.0


class ReplacementStep(StrEnum):
    """The next write; WAIT until what was told is seen, DONE when nothing is left to do.

    UNMARK comes before what has to be issued or told again: who learns it now has not seen it since the mark.
    """

    ANNOUNCE = "announce"
    ISSUE = "issue"
    TELL = "tell"
    MARK = "mark"
    UNMARK = "unmark"
    WAIT = "wait"
    REPLACE = "replace"
    RETIRE = "retire"
    FORGET = "forget"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class ReplacementFacts:
    """How things stand. `is_issued`: all certificates are of the signing authority and beside the right trust.

    `untold`: peers that do not trust exactly what they should. `told_s`: since when all were told, 0 if not yet, wall seconds.
    """

    phase: AuthorityPhase
    is_issued: bool
    untold: tuple[str, ...]
    told_s: float
    wants_new: bool


def next_step(facts: ReplacementFacts, wall_s: float, settle_s: float = SETTLE_S) -> ReplacementStep:
    """The one thing to do now."""
    if facts.phase is AuthorityPhase.SETTLED:
        return ReplacementStep.ANNOUNCE if facts.wants_new else ReplacementStep.DONE
    if facts.told_s > 0 and (facts.untold or not facts.is_issued):
        return ReplacementStep.UNMARK
    if not facts.is_issued:
        return ReplacementStep.ISSUE
    if facts.untold:
        return ReplacementStep.TELL
    if facts.phase is AuthorityPhase.RETIRED:
        return ReplacementStep.FORGET
    if facts.told_s <= 0 or facts.told_s > wall_s:  # never, or by a clock that was ahead
        return ReplacementStep.MARK
    if wall_s - facts.told_s < settle_s:
        return ReplacementStep.WAIT
    return ReplacementStep.REPLACE if facts.phase is AuthorityPhase.ANNOUNCED else ReplacementStep.RETIRE
