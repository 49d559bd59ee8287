# SPDX-License-Identifier: Apache-2.0
"""Scripts fail where they are wrong, and say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import script as script_module
from tests.support.script import Script, ScriptError, read_archive


class Echo(Script):
    """Says what it was told."""

    said = ""

    def do_say(self, *words: str) -> None:
        self.said = " ".join(words)

    def do_heard(self, name: str) -> None:
        self.compare(name, self.said)


def write(folder: Path, text: str) -> Path:
    path = folder / "story.txtar"
    path.write_text(text)
    return path


def test_commands_and_sections_are_read_without_comments() -> None:
    commands, sections = read_archive("# a story\nsay 'two words' # said\n\nheard x\n-- x --\none\n-- y --\n")
    assert [(c.line, c.words) for c in commands] == [(2, ["say", "two words"]), (4, ["heard", "x"])]
    assert sections == {"x": "one\n", "y": ""}


def test_what_came_out_is_compared_with_the_section(tmp_path: Path) -> None:
    Echo.run_file(write(tmp_path, "say hello\nheard x\n-- x --\nhello\n"))
    with pytest.raises(AssertionError, match=r"story.txtar:2: heard x\n--- want\nhello\n--- got\nbye"):
        Echo.run_file(write(tmp_path, "say bye\nheard x\n-- x --\nhello\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shout hello\n", "story.txtar:1: shout hello\nno verb shout; there are: heard, say"),
        ("heard\n", "story.txtar:1: heard\nheard: missing a required argument: 'name'"),
        ("heard y\n-- x --\n", "no section y; there are: x"),
        ("say hello\n-- x --\nhello\n", "no command names x"),
        ("heard x\n-- x --\n-- x --\n", "same name: .'x'."),
    ],
)
def test_a_script_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        Echo.run_file(write(tmp_path, text))


def test_an_update_writes_what_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "UPDATE", True)
    path = write(tmp_path, "say hello\nheard x\n-- x --\nold\n")
    Echo.run_file(path)
    assert path.read_text() == "say hello\nheard x\n-- x --\nhello\n"


def test_an_update_does_not_hide_two_results_for_one_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "UPDATE", True)
    with pytest.raises(AssertionError):
        Echo.run_file(write(tmp_path, "say one\nheard x\nsay two\nheard x\n-- x --\n"))
