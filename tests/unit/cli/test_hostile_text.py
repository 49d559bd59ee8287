# SPDX-License-Identifier: Apache-2.0
"""Names of a peer may hold anything that is UTF-8; what is printed commands no terminal and makes up no line."""

from __future__ import annotations

import io
import json
import logging

import pytest

from agent.cli import render, verbs
from clustermesh_cli.console import Console
from clustermesh_cli.listed_rows import table_lines
from meshapi.agent import NodeRow
from meshkit import log
from meshkit.text import visible

HOSTILE = "n\x1b[31m\x1b]0;title\x07\x9b2J\r\u202e\nOK   all is well"
SHOWN = r"n\u001b[31m\u001b]0;title\u0007\u009b2J\r\u202e"


def has_command(text: str) -> bool:
    return any(not c.isprintable() and c != "\n" for c in text)


def test_a_terminal_gets_nothing_but_lines_of_text() -> None:
    assert visible(HOSTILE) == SHOWN + "\nOK   all is well"
    assert visible("Zürich ⚠️ 日本\tend\n") == "Zürich ⚠️ 日本\tend\n"
    assert json.loads(visible(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE, "JSON stays what it says"


def test_the_commands_lines_are_one_fact_each() -> None:
    out = io.StringIO()
    console = Console(plain=True, stream=out)
    console.warn(f"peer {HOSTILE}: odd")
    for line in table_lines((("NAME", "AGE"), [(HOSTILE, "1s"), ("plain", HOSTILE)])):
        console.line(line)
    assert not has_command(out.getvalue())
    assert len(out.getvalue().splitlines()) == 4
    assert out.getvalue().startswith(f"WARN peer {SHOWN}\\nOK   all is well: odd\n")


@pytest.mark.parametrize("is_json", [True, False])
def test_a_log_has_one_line_for_each_record(is_json: bool) -> None:
    record = logging.makeLogRecord({"msg": "record rejected", "levelname": "WARNING", "key": HOSTILE})
    line = (log.JsonFormatter() if is_json else log.PlainFormatter()).format(record)
    assert not has_command(line)
    assert "\n" not in line
    assert not is_json or json.loads(line)["key"] == HOSTILE


def test_the_agents_tables_hold_one_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"cluster": "tion", "cluster_id": 2, "address": "", "source": "clustermesh"}
    node = NodeRow(name=HOSTILE, addresses=[], pod_cidrs=[], **facts)  # type: ignore[arg-type]
    text = render.nodes([node])
    assert not has_command(text)
    assert len(text.splitlines()) == 2
    verbs._write(f"{HOSTILE}\n")
    assert capsys.readouterr().out == f"{SHOWN}\nOK   all is well\n"
