# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy eval` says of cases, for reading: a line a flow, and a line a policy in error. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from clustermesh_cli.listed_rows import table_lines

HEAD: Final = ("CASE", "FROM", "TO", "PROTOCOL", "PORT", "EGRESS", "INGRESS")


def verdict_lines(cases: Any, answer: Any) -> Iterable[str]:
    """Of the case, or of the list of cases, and of what `meshpolicy.evaluate` answered to it. Cases count from 1."""
    pairs = [(cases, answer)] if isinstance(cases, Mapping) else list(zip(cases, answer, strict=True))
    yield from table_lines((HEAD, [row for number, pair in enumerate(pairs, 1) for row in _rows(number, *pair)]))
    for number, (_, answered) in enumerate(pairs, 1):
        for error in answered["errors"]:
            yield f"ERROR in case {number}: {' '.join(error.split())}"


def _rows(number: int, case: Mapping[str, Any], answered: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for flow, verdict in zip(case.get("flows", []), answered["verdicts"], strict=True):
        yield (number, *flow, *verdict)
