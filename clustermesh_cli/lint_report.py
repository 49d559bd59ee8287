# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy lint` found: each remark with its file, and how many there are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from meshapi.row import SCHEMA, Row
from meshpolicy.lint import Finding, Severity


class LintFinding(Row, kw_only=True):
    """One remark. `file` is empty for what only all files together have; `fix` where nothing need be done."""

    file: str
    severity: str
    code: str
    where: str
    message: str
    fix: str


class LintReport(Row, kw_only=True):
    """How many `files` were read, and what was found. `counts` is by severity.

    `policies` says what becomes of each policy; only a summary has it, and a summary has no findings.
    """

    schema: int = SCHEMA
    files: int
    counts: dict[str, int]
    findings: list[LintFinding]
    policies: dict[str, int] | None = None


def make_report(
    files: int, found: Sequence[tuple[str, Finding]], policies: Mapping[str, int] | None = None
) -> LintReport:
    """The document of remarks, each with its file; a summary where it is said what becomes of the policies."""
    return LintReport(
        files=files,
        counts={severity.value: sum(one.severity is severity for _, one in found) for severity in Severity},
        findings=[] if policies is not None else [LintFinding(file=file, **one._asdict()) for file, one in found],
        policies=None if policies is None else dict(policies),
    )


def report_lines(report: LintReport, found: Iterable[tuple[str, Finding]]) -> Iterable[str]:
    """One line a remark, unless it is a summary; then the sum."""
    for file, one in () if report.policies is not None else found:
        yield f"{file}: {one}" if file else str(one)
    counts = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in report.counts.items())
    yield f"{counts} in {report.files} file{'' if report.files == 1 else 's'}"
