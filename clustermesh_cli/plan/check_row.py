# SPDX-License-Identifier: Apache-2.0
"""One thing that was looked at before or while clusters are a mesh, and how it stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from meshapi.row import SCHEMA, Row


class CheckResult(StrEnum):
    """FAIL forbids a link, or says that one does not work; WARN does neither."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class CheckRow(Row, kw_only=True):
    """`check` names what was looked at, `clusters` whose it is; `next` is what to do about it, empty for nothing."""

    check: str
    clusters: list[str]
    result: CheckResult
    detail: str
    next: str = ""


class CheckReport(Row, kw_only=True):
    """Everything that was looked at, as of `time` (RFC 3339); `result` is the worst of the rows."""

    schema: int = SCHEMA
    time: str
    result: CheckResult
    rows: list[CheckRow] = msgspec.field(default_factory=list)


def worst(rows: Iterable[CheckRow]) -> CheckResult:
    """The worst result there is."""
    order = list(CheckResult)
    return max((row.result for row in rows), key=order.index, default=CheckResult.OK)


def failures(rows: Iterable[CheckRow]) -> list[CheckRow]:
    return [row for row in rows if row.result is CheckResult.FAIL]
