# SPDX-License-Identifier: Apache-2.0
"""Notice that the content of a directory changed, also when a symlink was swapped as Kubernetes does in volumes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import watchfiles

POLL_INTERVAL_S: Final = 5.0


async def watch_directory(path: str | Path, *, poll_interval_s: float = POLL_INTERVAL_S) -> AsyncIterator[None]:
    """Yields once at the start and then whenever the directory's files may have changed.

    Notifications make it quick; a look every `poll_interval_s` makes it sure: the directory may not exist yet, may be
    replaced as a whole, or may be on a file system without notifications. Several changes may give one yield.
    """
    directory = Path(path)
    seen = await asyncio.to_thread(_fingerprint, directory)
    yield
    while True:
        async for _ in _hints(directory, poll_interval_s):
            now = await asyncio.to_thread(_fingerprint, directory)
            if now != seen:
                is_replaced = now[:1] != seen[:1]
                seen = now
                yield
                if is_replaced:
                    break  # watch the directory that is there now


async def _hints(directory: Path, poll_interval_s: float) -> AsyncIterator[None]:
    """Something may have happened: before the watch began, by notification, by time. Ends when it cannot be watched."""
    yield
    try:
        async for _ in watchfiles.awatch(
            directory,
            watch_filter=None,
            debounce=200,
            step=20,
            rust_timeout=max(1, int(poll_interval_s * 1000)),
            yield_on_timeout=True,
            recursive=True,
            ignore_permission_denied=True,
        ):
            yield
    except (OSError, RuntimeError):
        pass
    await asyncio.sleep(poll_interval_s)
    yield


def _fingerprint(directory: Path) -> tuple[str, ...]:
    """What the directory is, then a digest per file below it; symlinks are followed."""
    try:
        stat = directory.stat()
    except OSError:
        return ("absent",)
    parts = [f"{os.path.realpath(directory)} {stat.st_dev} {stat.st_ino}"]
    for root, folders, files in os.walk(directory):
        folders.sort()
        parts.extend(_describe(Path(root, name)) for name in sorted(files))
        for name in folders:
            folder = Path(root, name)
            if folder.is_symlink():
                parts.append(f"{folder} -> {folder.readlink()}")
    return tuple(parts)


def _describe(file: Path) -> str:
    try:
        digest = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError as exc:
        digest = f"unreadable: {exc.errno}"
    return f"{file} {digest}"
