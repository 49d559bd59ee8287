# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy eval` says of cases, for reading: a line a flow, and a line a policy in error. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from clustermesh_cli.listed_rows import table_lines

FLOW: Final = ("FROM", "TO", "PROTOCOL", "PORT")
ASKED: Final = ("ASKED",)
"""The request or the DNS name of a flow, shown where one has it."""


def verdict_lines(cases: Any, answer: Any) -> Iterable[str]:
    """Of the case, or of the list of cases, and of what `meshpolicy.evaluate` answered to it. Cases count from 1."""
    pairs = [(cases, answer)] if isinstance(cases, Mapping) else list(zip(cases, answer, strict=True))
    shown = ("CASE", *FLOW, *(ASKED if _is_asked(pairs) else ()))
    rows = [row for number, pair in enumerate(pairs, 1) for row in _rows(number, *pair, width=len(shown))]
    yield from table_lines(((*shown, "EGRESS", "INGRESS"), rows))
    for number, (_, answered) in enumerate(pairs, 1):
        for error in answered["errors"]:
            yield f"ERROR in case {number}: {' '.join(error.split())}"
        for text in answered.get("notEnforced", ()):
            yield f"NOT ENFORCED in case {number}: {text}"


def _is_asked(pairs: Iterable[tuple[Mapping[str, Any], object]]) -> bool:
    return any(len(flow) > len(FLOW) for case, _ in pairs for flow in case.get("flows", []))


def _rows(
    number: int, case: Mapping[str, Any], answered: Mapping[str, Any], *, width: int
) -> Iterable[Sequence[object]]:
    for flow, verdict in zip(case.get("flows", []), answered["verdicts"], strict=True):
        row = (number, *flow)
        yield (*row, *("-",) * (width - len(row)), *verdict)
