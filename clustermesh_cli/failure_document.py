# SPDX-License-Identifier: Apache-2.0
"""What a program reads that asked a verb for a document and gets none, because the verb failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from clustermesh_cli.exit_code import ExitCode
from meshkit.answer_form import AnswerForm, format_document


def outcome(code: ExitCode, problems: Sequence[str]) -> Mapping[str, Any]:
    """How a verb ended, in the words of every document."""
    return {"result": code.name.lower().replace("_", "-"), "exit-code": int(code), "problems": list(problems)}


def print_failure(words: Sequence[str], message: str, code: ExitCode) -> None:
    """Where the words of the command ask for a document, print the one that says why there is no other."""
    form = _asked_form(words)
    if form is AnswerForm.TABLE:
        return
    from meshapi.row import SCHEMA, encode

    print(format_document(encode({"schema": SCHEMA, "outcome": outcome(code, [message])}), form))


def _asked_form(words: Sequence[str]) -> AnswerForm:
    """TABLE also where each thing is a document of its own, so that none more may follow, and for what is no form."""
    is_stream = words[:1] == ["kv"] or words[:2] == ["policy", "eval"]
    is_stream |= words[:1] == ["events"] and not {"-f", "--follow"}.isdisjoint(words)
    last = AnswerForm.TABLE.value if is_stream else next(reversed([*_outputs(words)]), "")
    return AnswerForm(last) if last in list(AnswerForm) else AnswerForm.TABLE


def _outputs(words: Sequence[str]) -> Iterator[str]:
    options = [*takewhile(lambda word: word != "--", words), ""]
    for word, after in pairwise(options):
        if word in ("-o", "--output"):
            yield after
        elif word.startswith("--output="):
            yield word.removeprefix("--output=")
        elif word.startswith("-o"):
            yield word[2:]
