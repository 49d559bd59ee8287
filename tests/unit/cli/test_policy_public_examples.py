# SPDX-License-Identifier: Apache-2.0
"""docs/policy-examples.md says of each published policy what lint says of its features, and docs/policy.md has the sums.

`EXAMPLES_UPDATE=1` writes both.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import pytest

from clustermesh_cli.commands.policy import lint_files
from clustermesh_cli.exit_code import ExitCode
from meshkit.answer_form import AnswerForm
from tests.unit.cli.example_wording import document

DOCS: Final = Path(__file__).parents[3] / "docs"
TABLE: Final = DOCS / "policy-examples.md"
SUMS: Final = DOCS / "policy.md"
AS_WRITTEN, IN_PART, REFUSED = "as written", "in part", "refused"
_ROW: Final = re.compile(r"^\| ([^|]+) \| (CNP|CCNP|NP|Group|rules) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
_SUMS: Final = re.compile(
    r"(?P<all>\d+) policies, of which \*\*(?P<whole>\d+) are\s+enforced\s+as\s+written\*\*, "
    r"(?P<part>\d+)\s+in\s+part,\s+(?P<refused>\d+)\s+refused"
)


class Row(NamedTuple):
    """One published policy."""

    file: str
    kind: str
    uses: str
    here: str


def read_rows() -> list[Row]:
    return [Row(*(cell.strip() for cell in found)) for found in _ROW.findall(TABLE.read_text())]


def judge(folder: Path, kind: str, uses: str) -> str:
    """What `policy lint` says of a policy that uses these features: what becomes of it, and why."""
    file, answer = folder / "policy.json", StringIO()
    file.write_bytes(orjson.dumps(document(kind, uses)))
    code = lint_files([str(file)], "north", is_summary=True, form=AnswerForm.JSON, output=answer)
    reasons = orjson.loads(answer.getvalue())["reasons"]
    reason = "; ".join(sorted(found["reason"] for found in reasons))
    assert (code is ExitCode.OK) == (not reason)
    return AS_WRITTEN if not reason else f"{REFUSED if code is ExitCode.CHECK_FAILED else IN_PART}: {reason}"


def _sums(rows: list[Row]) -> dict[str, int]:
    found = Counter(row.here.partition(":")[0] for row in rows)
    whole, part, refused = (found[word] for word in (AS_WRITTEN, IN_PART, REFUSED))
    return {"all": len(rows), "whole": whole, "part": part, "refused": refused}


@pytest.mark.skipif(
    not os.environ.get("EXAMPLES_UPDATE"), reason="writes the column and the sums when EXAMPLES_UPDATE is set"
)
def test_the_column_and_the_sums_are_written(tmp_path: Path) -> None:
    text = _ROW.sub(
        lambda row: f"| {row[1]} | {row[2]} | {row[3]} | {judge(tmp_path, row[2], row[3])} |", TABLE.read_text()
    )
    TABLE.write_text(text)
    sums = _sums(read_rows())
    words = f"{sums['all']} policies, of which **{sums['whole']} are enforced as written**, {sums['part']} in part, "
    SUMS.write_text(_SUMS.sub(f"{words}{sums['refused']} refused", SUMS.read_text()))


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: f"{row.file} {row.kind}")
def test_a_published_policy_is_judged_as_the_table_says(tmp_path: Path, row: Row) -> None:
    assert judge(tmp_path, row.kind, row.uses) == row.here


def test_the_sums_are_those_of_the_table() -> None:
    rows = read_rows()
    assert len({row.file for row in rows}) == len(rows)
    (found,) = _SUMS.finditer(SUMS.read_text())
    assert {name: int(number) for name, number in found.groupdict().items()} == _sums(rows)
