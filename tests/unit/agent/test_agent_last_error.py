# SPDX-License-Identifier: Apache-2.0
"""What a proxy's log says of why it does not do what it should."""

from __future__ import annotations

from pathlib import Path

from agent.last_error import last_error


def test_the_last_line_of_an_error_is_told_and_not_what_came_after_it(tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    log.write_text("[critical] first\nlistener error: second\nall is well\n")
    assert last_error(log) == "listener error: second"


def test_of_a_large_log_the_end_alone_is_read(tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    with log.open("wb") as file:
        file.truncate(1 << 40)  # a hole, more than anybody could read
        file.seek(0, 2)
        file.write(b"\n[critical] at the end\n")
    assert last_error(log) == "[critical] at the end"


def test_a_log_that_says_nothing_or_is_not_there_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "envoy.log").write_bytes(b"\xff all is well\n")
    assert last_error(tmp_path / "envoy.log") == last_error(tmp_path / "none") == ""
