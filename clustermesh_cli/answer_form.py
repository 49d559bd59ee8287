# SPDX-License-Identifier: Apache-2.0
"""Which form of an answer was asked for, and the answer in it."""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from meshkit.answer_form import AnswerForm, format_document

_SUMMARY = "summary"
"""What `cilium` calls the table."""


def parse_answer_form(output: str) -> AnswerForm:
    """Raises: CommandError (usage) for what is no form."""
    try:
        return AnswerForm.TABLE if output == _SUMMARY else AnswerForm(output)
    except ValueError:
        raise CommandError(f"--output {output}: choose {', '.join(AnswerForm)}", ExitCode.USAGE) from None


def print_answer(answer: object, lines: Iterable[str], form: AnswerForm, console: Console) -> None:
    """Print the answer, or the lines that are its table."""
    if form is AnswerForm.TABLE:
        for line in lines:
            console.line(line)
        return
    from meshapi.row import encode

    console.line(format_document(encode(answer), form))
