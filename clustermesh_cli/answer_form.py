# SPDX-License-Identifier: Apache-2.0
"""The forms of an answer: a table for people, JSON or YAML of the same for programs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode

_SUMMARY = "summary"
"""What `cilium` calls the table."""


class AnswerForm(StrEnum):
    """What -o may say."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


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
    import msgspec

    from meshapi.row import encode

    if form is AnswerForm.JSON:
        console.line(msgspec.json.format(encode(answer), indent=2).decode())
    else:
        import yaml

        console.line(yaml.safe_dump(msgspec.json.decode(encode(answer)), sort_keys=False).rstrip("\n"))
