# SPDX-License-Identifier: Apache-2.0
"""Logs as JSON lines (or plain lines for people) on standard error, from the standard library's loggers."""

from __future__ import annotations

import json as jsonlib
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from meshkit.errors import MAXIMUM_TEXT
from meshkit.text import visible, visible_cell

SELDOM_S: Final = 60.0
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(level: str = "info", json: bool = True, stream: TextIO | None = None) -> None:
    """The root logger writes to `stream` (standard error) in one of the two forms; what was set before is gone."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.error").filters[:] = [Seldom()]
    for noisy in ("uvicorn.access", "urllib3", "watchfiles", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave in `extra`, foreign text cut."""
    return {k: _cut(v) for k, v in vars(record).items() if k not in _STANDARD and not k.startswith("_")}


class Seldom(logging.Filter):
    """What strangers can make a logger say at will, up to warnings, is written once in SELDOM_S seconds for each message."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        text = str(record.msg)  # the template, of which a library has few
        if record.levelno > logging.WARNING or record.created - self._written.get(text, -math.inf) < SELDOM_S:
            return record.levelno > logging.WARNING
        self._written[text] = record.created
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return visible(jsonlib.dumps(line, default=str, ensure_ascii=False))


class PlainFormatter(logging.Formatter):
    """One line for a person: time, level, message, key=value."""

    def format(self, record: logging.LogRecord) -> str:
        tail = "".join(f" {key}={value}" for key, value in facts(record).items())
        line = visible_cell(f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}{tail}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _cut(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= MAXIMUM_TEXT else text[: MAXIMUM_TEXT - 1] + "…"
