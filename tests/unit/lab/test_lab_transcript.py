# SPDX-License-Identifier: Apache-2.0
"""What the walkthrough prints must be short and lose nothing that matters."""

from __future__ import annotations

import pytest

from lab.transcript import MismatchError, Transcript, condensed


def test_equal_answers_are_counted_wherever_they_stand() -> None:
    answers = ['{"Cluster": "Tion"}', '{"Cluster": "Koornacht"}', '{"Cluster": "Tion"}']
    assert condensed("\n".join(answers)) == ['  2 x {"Cluster": "Tion"}', '{"Cluster": "Koornacht"}']


def test_time_outs_are_one_kind_whatever_their_milliseconds() -> None:
    text = "curl: (28) Connection timed out after 2000 milliseconds\ncurl: (28) Connection timed out after 2001 milliseconds"
    assert condensed(text) == ["  2 x curl: (28) timed out"]


def test_long_output_says_how_much_is_left_out() -> None:
    shown = condensed("\n".join(f"line {i}" for i in range(30)), limit=5)
    assert shown == ["line 0", "line 1", "line 2", "line 3", "... 26 more lines"]


def test_a_mismatch_is_printed_and_ends_the_walk(capsys: pytest.CaptureFixture[str]) -> None:
    paper = Transcript()
    with pytest.raises(MismatchError):
        paper.judge(["3 pods are Running, not 4"], "all 4 pods are Running")
    assert "MISMATCH 3 pods are Running, not 4" in capsys.readouterr().out
    assert paper.checks == 0
