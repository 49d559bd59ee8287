# SPDX-License-Identifier: Apache-2.0
"""The proxy's log of requests, read as it grows and cut off when it is long. A line that cannot be read is counted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

LONGEST_BYTES: Final = 8 << 20
_STEP_BYTES: Final = 1 << 20


class AccessLog:
    """From the end that the file has now on: what was written before the agent came is nobody's any more."""

    def __init__(self, path: Path) -> None:
        self._path, self._rest = path, b""
        try:
            self._offset = path.stat().st_size
        except OSError:
            self._offset = 0
        self.unreadable = 0

    def read(self) -> list[Mapping[str, Any]]:
        """The records since the last call, at most those of a mebibyte. A file that is longer than it may be is emptied."""
        try:
            size = self._path.stat().st_size
            if size < self._offset:  # emptied
                self._offset, self._rest = 0, b""
            data = b""
            if size > self._offset:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    data = file.read(_STEP_BYTES)
            self._offset += len(data)
            if self._offset >= LONGEST_BYTES and self._offset >= size:
                os.truncate(self._path, 0)
                self._offset = 0
        except OSError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [record for line in lines if (record := self._record(line)) is not None]

    def _record(self, line: bytes) -> Mapping[str, Any] | None:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return found
        self.unreadable += 1
        return None
