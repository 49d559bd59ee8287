# SPDX-License-Identifier: Apache-2.0
"""What the user reads: one line per fact, with a mark that is also a word when the output is not a terminal."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from meshkit.text import visible, visible_cell

_MARKS: Final = {
    "ok": ("✅", "OK  "),
    "warn": ("⚠️ ", "WARN"),
    "fail": ("❌", "FAIL"),
    "info": ("ℹ️ ", "INFO"),
    "step": ("✨", "STEP"),
    "wait": ("⌛", "WAIT"),
}


class Console:
    """Prints marked lines to one stream; words instead of symbols when it is no terminal that has them, or `plain` is set.

    Nothing of it commands a terminal, and each marked line is one.
    """

    def __init__(self, *, plain: bool | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._plain = not (self._stream.isatty() and _has_symbols(self._stream)) if plain is None else plain

    def ok(self, text: str) -> None:
        self._marked("ok", text)

    def warn(self, text: str) -> None:
        self._marked("warn", text)

    def fail(self, text: str) -> None:
        self._marked("fail", text)

    def info(self, text: str) -> None:
        self._marked("info", text)

    def step(self, text: str) -> None:
        self._marked("step", text)

    def wait(self, text: str) -> None:
        self._marked("wait", text)

    def line(self, text: str = "") -> None:
        print(visible(text), file=self._stream, flush=True)

    def _marked(self, mark: str, text: str) -> None:
        symbol, word = _MARKS[mark]
        self.line(f"{word if self._plain else symbol} {visible_cell(text)}")


def _has_symbols(stream: TextIO) -> bool:
    """Whether the locale of the stream can write every mark."""
    try:
        "".join(symbol for symbol, _ in _MARKS.values()).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
