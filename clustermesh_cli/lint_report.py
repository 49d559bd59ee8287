# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy lint` found: each remark with its file, how many there are, and what becomes of the policies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from clustermesh_cli.policy_summary import PARTLY, REFUSED, Summary
from meshapi.row import SCHEMA, Row
from meshpolicy.lint import Finding, Severity

MOST_REASONS: Final = 50
_OUTCOMES: Final = {PARTLY: "in part", REFUSED: "refused"}


class LintFinding(Row, kw_only=True):
    """One remark. `file` is empty for what only all files together have; `fix` where nothing need be done."""

    file: str
    severity: str
    code: str
    where: str
    message: str
    fix: str


class LintReason(Row, kw_only=True):
    """Why so many `policies` are "partly" enforced or "refused"; one may have several reasons."""

    outcome: str
    reason: str
    policies: int


class LintReport(Row, kw_only=True):
    """How many `files` were read, and what was found. `counts` is by severity.

    `policies` says what becomes of each policy, and `reasons` why; only a summary has them, and a summary has no findings.
    """

    schema: int = SCHEMA
    files: int
    counts: dict[str, int]
    findings: list[LintFinding]
    policies: dict[str, int] | None = None
    reasons: list[LintReason] | None = None


def make_report(files: int, found: Sequence[tuple[str, Finding]], summary: Summary | None = None) -> LintReport:
    """The document of remarks, each with its file; a summary where it is said what becomes of the policies."""
    return LintReport(
        files=files,
        counts={severity.value: sum(one.severity is severity for _, one in found) for severity in Severity},
        findings=[] if summary is not None else [LintFinding(file=file, **one._asdict()) for file, one in found],
        policies=None if summary is None else summary.counts._asdict(),
        reasons=None if summary is None else [LintReason(**reason._asdict()) for reason in summary.reasons],
    )


def report_lines(
    report: LintReport, found: Iterable[tuple[str, Finding]], summary: Summary | None = None
) -> Iterable[str]:
    """One line a remark, and their number; of a summary only the number, what becomes of the policies, and why."""
    for file, one in () if summary is not None else found:
        yield f"{file}: {one}" if file else str(one)
    counts = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in report.counts.items())
    yield f"{counts} in {report.files} file{'' if report.files == 1 else 's'}"
    if summary is not None:
        yield str(summary.counts)
        for reason in summary.reasons[:MOST_REASONS]:
            yield f"{reason.policies:>5} {_OUTCOMES[reason.outcome]}: {reason.reason}"
        if len(summary.reasons) > MOST_REASONS:
            yield f"... and {len(summary.reasons) - MOST_REASONS} more reasons"
