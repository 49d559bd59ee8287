# SPDX-License-Identifier: Apache-2.0
"""Every verb that shows something has the same words for -o, in lower case, and moments in documents are RFC 3339."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec
import pytest
from test_misuse import kubeconfig, leaves

from agent.cli.verbs import make_parser
from clustermesh_cli.answer_form import parse_answer_form
from clustermesh_cli.app import run_app
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus, FacadeSession
from meshapi.peer import RemoteCluster
from meshapi.shown_times import MOMENTS, with_times
from meshkit.answer_form import FORMS, AnswerForm

__all__ = ["kubeconfig"]

WITHOUT: Final = {
    ("certs", "create"),
    ("certs", "rotate"),
    ("connect",),
    ("disable",),
    ("disconnect",),
    ("drain",),
    ("enable",),
    ("hubble", "port-forward"),
    ("ui",),
    ("undrain",),
}
"""Verbs that change something."""
HUBBLES: Final = {("observe",)}
"""Verbs with the forms of another command, which they stand in for."""
ALSO_RAW: Final = {("kv", "get"), ("kv", "ls"), ("kv", "watch")}
NEEDED: Final = {
    ("explain", "policy"): "--from a/b --to a/c --port 80",
    ("get",): "nodes",
    ("kv", "get"): "key",
    ("policy", "diff"): "-",
    ("policy", "eval"): "-f -",
    ("policy", "lint"): "/dev/null",
}
DURATIONS: Final = {"age", "rtt"}


def test_every_verb_that_shows_something_has_an_output_form() -> None:
    found = {path for path, command in leaves() if any("--output" in p.opts for p in command.params)}
    assert {path for path, _ in leaves()} - found == WITHOUT | HUBBLES


@pytest.mark.parametrize("path", [path for path, _ in leaves() if path not in WITHOUT | HUBBLES], ids=" ".join)
@pytest.mark.parametrize("word", ["xml", "JSON", "Table"])
def test_other_words_are_refused_alike(
    path: tuple[str, ...], word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["clustermesh", *path, *NEEDED.get(path, "").split(), "-o", word])
    assert run_app() == 2
    raw = ", raw" if path in ALSO_RAW else ""
    assert capsys.readouterr().err == f"Error: --output {word}: choose table, json, yaml{raw}\n"


def test_the_words_are_these_and_what_cilium_calls_the_table() -> None:
    assert [parse_answer_form(form) for form in ("table", "json", "yaml", "summary")] == [
        AnswerForm.TABLE, AnswerForm.JSON, AnswerForm.YAML, AnswerForm.TABLE,
    ]  # fmt: skip


def _agent_verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for inner in group.choices.values():
            yield from _agent_verbs(inner)


def test_every_verb_of_the_agent_has_the_same() -> None:
    verbs = list(_agent_verbs(make_parser()))
    assert len(verbs) > 10
    for verb in verbs:
        (output,) = [action for action in verb._actions if "--output" in action.option_strings]
        assert output.choices == FORMS, verb.prog


def test_moments_are_written_as_rfc_3339_and_never_as_nothing() -> None:
    document: dict[str, Any] = {"session-since": 86_400.5, "last-failure": 0.0, "age": 3.5, "peers": [{"started": 1}]}
    assert with_times(document) == {
        "session-since": "1970-01-02T00:00:00Z", "last-failure": "", "age": 3.5,
        "peers": [{"started": "1970-01-01T00:00:01Z"}],
    }  # fmt: skip


@pytest.mark.parametrize("struct", [ApiserverStatus, AgentStatus, RemoteCluster, FacadeSession])
def test_no_fraction_of_a_status_is_neither_moment_nor_duration(struct: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(struct)
    numbers = {field.encode_name for field in fields if float in (field.type, *get_args(field.type))}
    assert numbers <= MOMENTS | DURATIONS
