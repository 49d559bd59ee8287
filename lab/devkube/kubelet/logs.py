# SPDX-License-Identifier: Apache-2.0
"""A container's log: one file per run, read to its end or followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from lab.devkube.api.error import bad_request
from lab.devkube.api.runtime import LogOptions

POLL_S: Final = 0.1
CHUNK: Final = 65536


def log_file(directory: Path, container: str, run: int) -> Path:
    """Where the output of the container's run number `run` (1 is the first) goes."""
    return directory / "logs" / container / f"{run}.log"


async def read_log(path: Path, options: LogOptions, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log's pieces; followed, until the run has ended. Raises: ApiError for what the lab does not keep."""
    if options.timestamps or options.since_s is not None:
        raise bad_request("the lab keeps no times of log lines: --timestamps and --since are not available")
    left = options.limit_bytes
    position = 0 if options.tail_lines is None else tail_position(path, options.tail_lines)
    while True:
        running = is_running()
        data = _read(path, position)
        if data:
            position += len(data)
            piece = data if left is None else data[:left]
            left = None if left is None else left - len(piece)
            yield piece
            if left == 0:
                return
        elif not (options.follow and running):
            return
        else:
            await asyncio.sleep(POLL_S)


def tail_position(path: Path, lines: int) -> int:
    """The offset from which the file has this many lines."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    kept = data.splitlines(keepends=True)[-lines:] if lines else []
    return len(data) - sum(map(len, kept))


def _read(path: Path, position: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as log:
        log.seek(position)
        return log.read(CHUNK)
