# SPDX-License-Identifier: Apache-2.0
"""Durations are written as operators write them."""

from __future__ import annotations

import pytest

from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.verb_options import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300.0), ("90", 90.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0.0), (120.0, 120.0)],
)
def test_a_duration_is_seconds_or_gos_form(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "five", "5 m", "m5", "5d", "-1", "inf", "nan", "5m3"])
def test_anything_else_is_told_with_an_example(text: str) -> None:
    with pytest.raises(CommandError, match="is no duration"):
        parse_duration(text)
