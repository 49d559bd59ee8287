# SPDX-License-Identifier: Apache-2.0
"""`clustermesh-apiserver troubleshoot` tries what is mirrored, and is red when a connection cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from clustermesh_apiserver.mirror.troubleshoot import try_mirrored
from meshapi.trial import TrialOutcome, Trials, TrialStep
from meshkit.answer_form import AnswerForm


def run(folder: Path, *words: str) -> int:
    return try_mirrored(["--mirror-config-dir", str(folder), "--timeout", "1", *words])


def test_no_peer_is_no_trouble_unless_it_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path, "tion") == 4
    assert "Found 0 cluster configurations" in capsys.readouterr().out


def test_a_peer_that_cannot_be_reached_is_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tion").write_text("endpoints:\n- http://127.0.0.1:1\n")
    (tmp_path / "endor").write_text("endpoints: 7\n")
    assert run(tmp_path, "tion") == 4
    said = capsys.readouterr().out
    assert 'Cluster "tion"' in said
    assert "❌ 127.0.0.1:1: " in said
    assert 'Cluster "endor"' not in said
    assert run(tmp_path, "endor") == 4
    assert "endpoints is not a list" in capsys.readouterr().out


@pytest.mark.parametrize("form", [AnswerForm.JSON, AnswerForm.YAML])
def test_a_document_has_every_step_and_one_schema(
    form: AnswerForm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tion").write_text("endpoints:\n- http://127.0.0.1:1\n")
    (tmp_path / "endor").write_text("endpoints: 7\n")
    (tmp_path / "No Name").write_text("endpoints:\n- http://127.0.0.1:1\n")
    assert run(tmp_path, "-o", form) == 4
    decode = msgspec.json.decode if form is AnswerForm.JSON else msgspec.yaml.decode
    trials = decode(capsys.readouterr().out, type=Trials)
    assert (trials.schema, trials.works, list(trials.refused)) == (1, False, ["No Name"])
    endor, tion = trials.peers
    assert (endor.name, endor.works, endor.endpoints, "endpoints is not a list" in endor.refused) == (
        "endor", False, [], True,
    )  # fmt: skip
    (endpoint,) = tion.endpoints
    (tcp,) = endpoint.findings
    assert (endpoint.url, tcp.step, tcp.outcome, tcp.address) == (
        "http://127.0.0.1:1", TrialStep.CONNECTION, TrialOutcome.FAIL, "127.0.0.1:1",
    )  # fmt: skip
    assert [(found.step, found.outcome) for found in tion.store] == [(TrialStep.READ, TrialOutcome.FAIL)]


def test_no_peer_is_a_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "-o", "json") == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Trials) == Trials(works=True, refused={}, peers=[])


@pytest.mark.parametrize("form", AnswerForm)
def test_a_full_disk_is_one_line_and_a_closed_pipe_none(form: AnswerForm, tmp_path: Path) -> None:
    call = "import sys; from clustermesh_apiserver.app import main; sys.exit(main())"
    command = [sys.executable, "-c", call, "troubleshoot", "--mirror-config-dir", str(tmp_path), "-o", form]
    full = os.open("/dev/full", os.O_WRONLY)
    reading, closed = os.pipe()
    os.close(reading)
    said = []
    for output in (full, closed):
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        os.close(output)
        said.append((done.returncode, done.stderr))
    assert said == [(1, "Error: the answer cannot be written: No space left on device\n"), (1, "")]
