# SPDX-License-Identifier: Apache-2.0
"""The forms of a command's answer: a table for people, JSON or YAML of the same for programs."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class AnswerForm(StrEnum):
    """What -o may say."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FORMS: Final = tuple(form.value for form in AnswerForm)
"""As argparse wants choices."""


def format_document(document: bytes, form: AnswerForm) -> str:
    """JSON in the form that was asked for, without a newline at its end. Not for the table, which is no document."""
    assert form is not AnswerForm.TABLE
    if form is AnswerForm.JSON:
        return msgspec.json.format(document, indent=2).decode()
    import yaml  # takes long to load

    return str(yaml.safe_dump(msgspec.json.decode(document), sort_keys=False)).rstrip("\n")
