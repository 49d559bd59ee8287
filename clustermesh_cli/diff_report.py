# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy diff` found: each pair that is judged differently, and what was not compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from meshapi.row import SCHEMA, Row

MOST_LINES: Final = 200


class DiffChange(Row, kw_only=True):
    """What new connections between two ends are judged differently, in one direction. `packets` reads "80/TCP".

    `reason` names the rule that decides now, or the one without which the default does; `rule` is that rule alone.
    """

    direction: str
    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    packets: list[str]
    before: str
    after: str
    reason: str
    rule: str


class DiffReport(Row, kw_only=True):
    """How many identity `pairs` of `cluster` are judged differently. `errors` are of documents that would have no effect;
    nothing is compared then.
    """

    schema: int = SCHEMA
    cluster: str
    pairs: int = 0
    changes: list[DiffChange] = msgspec.field(default_factory=list)
    errors: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)


def change_lines(report: DiffReport) -> Iterable[str]:
    """One line a change, as many as a person reads."""
    for change in report.changes[:MOST_LINES]:
        yield (
            f"{report.cluster} {change.direction}: from {change.source} to {change.destination}: "
            f"{', '.join(change.packets)}: {change.before} -> {change.after} {change.reason}"
        )
    if len(report.changes) > MOST_LINES:
        yield f"... and {len(report.changes) - MOST_LINES} more"


def sum_line(report: DiffReport) -> str:
    return f"RESULT {report.pairs} pair{'' if report.pairs == 1 else 's'} of {report.cluster} judged differently"
