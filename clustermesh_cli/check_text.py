# SPDX-License-Identifier: Apache-2.0
"""What `check` prints: rows of checks as a table, and what a program of a cluster is to do next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clustermesh_cli.plan.check_row import CheckReport, CheckResult

HEAD = ("RESULT", "CHECK", "CLUSTERS", "DETAIL")


def check_lines(report: CheckReport, table_lines: Iterable[str]) -> Iterable[str]:
    """The table, what to do about each row that is not well, and the sum."""
    yield from table_lines
    todo = [row for row in report.rows if row.result is not CheckResult.OK and row.next]
    for row in todo:
        yield f"NEXT {row.check} of {', '.join(row.clusters)}: {row.next}"
    counts = {result: sum(1 for row in report.rows if row.result is result) for result in CheckResult}
    yield f"RESULT {report.result}: " + ", ".join(f"{count} {result}" for result, count in counts.items())


def check_table(report: CheckReport) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """One line for each row, in the order of the checks."""
    return HEAD, [(row.result, row.check, ",".join(row.clusters), row.detail) for row in report.rows]
