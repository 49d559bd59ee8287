# SPDX-License-Identifier: Apache-2.0
"""How a command ends when something is wrong that nobody translated: one line for a person, no traceback, and an exit code.

For commands only: programs that run for long log a fault with its traceback and go on.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from meshkit.text import visible

TRACEBACK_SWITCH: Final = "CLUSTERMESH_TRACEBACK"
FAULT: Final = 1
INTERRUPTED: Final = 130
"""Exit codes: of a fault and of an answer that could not be written; and the one that shells give to SIGINT."""


def run(command: Callable[[], int]) -> NoReturn:
    """End the process with what the command returns, and everything it printed is out, or with one line that says why not."""
    _open_what_is_closed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _leave("", FAULT)  # the reader has what it wanted
    except OSError as exc:
        _leave(f"{exc.filename or 'the answer cannot be written'}: {exc.strerror or exc}", FAULT)
    except Exception as exc:  # not by sys.excepthook: typer puts its own there
        if os.environ.get(TRACEBACK_SWITCH):
            sys.__excepthook__(type(exc), exc, exc.__traceback__)
        _say(f"a fault of the command itself: {type(exc).__name__}: {exc}; {TRACEBACK_SWITCH}=1 shows where")
        sys.exit(FAULT)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Nothing that is opened later gets the number of a standard stream, and what the locale cannot write is spelled out."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115  for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(_number: int, _frame: object) -> NoReturn:
    """SIGTERM unwinds the stack, so that temporary files, which may hold a key, are removed."""
    sys.exit(128 + signal.SIGTERM)


def _leave(message: str, code: int) -> NoReturn:
    """Nothing more is written to where writing failed, not even when the interpreter flushes at its end."""
    _say(message)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    sys.exit(code)


def _say(message: str) -> None:
    try:
        if message:
            os.write(2, f"Error: {visible(' '.join(message.split()))}\n".encode())
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
