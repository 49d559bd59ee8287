# SPDX-License-Identifier: Apache-2.0
"""`clustermesh-apiserver troubleshoot` tries what is mirrored, and is red when a connection cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustermesh_apiserver.app import main


def run(folder: Path, *words: str) -> int:
    return main(["troubleshoot", "--mirror-config-dir", str(folder), "--timeout", "1", *words])


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
