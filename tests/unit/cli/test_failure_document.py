# SPDX-License-Identifier: Apache-2.0
"""Whoever asks for a document gets one, also of a verb that could not begin; streams and tables end as they were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from clustermesh_cli.app import run_app
from clustermesh_cli.exit_code import ExitCode

NOWHERE = """
current-context: kind-north
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: kind-north, context: {cluster: c, user: u}}]
"""
VERBS = (
    ["status"],
    ["status", "--summary"],
    ["certs", "show"],
    ["config", "view"],
    ["get", "peers"],
    ["get", "nodes"],
    ["explain", "policy", "--from", "a/b", "--to", "c/d", "--port", "80"],
    ["inspect-policy-default-local-cluster"],
)


def run(words: list[str], kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["clustermesh", *words])
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return run_app()


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
@pytest.mark.parametrize("form", [["-o", "json"], ["-oyaml"], ["--output=json"]], ids=" ".join)
def test_a_verb_that_fails_leaves_a_document_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    form: list[str],
) -> None:
    for kubeconfig, content in (("missing", None), ("silent", NOWHERE)):
        if content is not None:
            (tmp_path / kubeconfig).write_text(content)
        assert run([*words, *form], tmp_path / kubeconfig, monkeypatch) == ExitCode.INTERNAL
        printed = capsys.readouterr()
        document = yaml.safe_load(printed.out)
        assert document["schema"] == 1
        assert (document["outcome"]["result"], document["outcome"]["exit-code"]) == ("internal", 1)
        assert printed.err == f"Error: {document['outcome']['problems'][0]}\n"


def test_wrong_use_is_told_in_the_document_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "--nope", "-o", "json"], tmp_path, monkeypatch) == ExitCode.USAGE
    assert yaml.safe_load(capsys.readouterr().out)["outcome"]["result"] == "usage"


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "-o", "table"],
        ["status", "-o", "json", "-o", "table"],
        ["kv", "ls", "-o", "json"],
        ["events", "-f", "-o", "json"],
        ["status", "-o", "xml"],
    ],
    ids=" ".join,
)
def test_tables_and_streams_get_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(words, tmp_path / "missing", monkeypatch) != ExitCode.OK
    assert capsys.readouterr().out == ""
