# SPDX-License-Identifier: Apache-2.0
"""`clustermesh check --matrix`: what every agent's probes found of every node of the other clusters, now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from clustermesh_cli.agent_answers import ask_agent, ask_all_agents
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.listed_rows import table_lines
from clustermesh_cli.path_matrix import is_settled, make_matrix, matrix_lines, matrix_table
from clustermesh_cli.program_client import ProgramClient
from meshapi.probe import NodeProbes
from meshapi.shown_times import rfc3339
from meshkit.answer_form import AnswerForm

SETTLE_S: Final = 6.0
"""Agents ask every node once in two seconds; one that has just started has not asked all yet."""


def check_matrix(
    clusters: Mapping[str, ProgramClient],
    form: AnswerForm,
    console: Console,
    wall: Callable[[], float],
    patience: Patience | None = None,
) -> ExitCode:
    """Print the matrix; degraded if one way between two clusters is not whole, or is not known."""
    found: list[NodeProbes] = []
    missing: list[str] = []

    def look() -> str | None:
        nonlocal found, missing
        found, missing = ask_all_agents(
            clusters, lambda programs, pod: ask_agent(programs, pod, "v1/probes", NodeProbes)
        )
        return None if is_settled(found) else "some nodes were not asked yet"

    (patience or Patience(SETTLE_S)).until_none(look)
    matrix = make_matrix(rfc3339(wall()), found, missing)
    print_answer(matrix, matrix_lines(matrix, table_lines(matrix_table(matrix))), form, console)
    return ExitCode.OK if matrix.is_whole else ExitCode.DEGRADED
