# SPDX-License-Identifier: Apache-2.0
"""Lines in a file that never grows beyond a size: it is renamed FILE.1 then, FILE.1 to FILE.2 and so on, the oldest removed."""

from __future__ import annotations

import os
from pathlib import Path


class RotatedFile:
    """Appends to `path`, which only our user may read. `limit_bytes` is for each file, `backups` files are kept beside it."""

    def __init__(self, path: Path, limit_bytes: int, backups: int) -> None:
        self._path, self._limit, self._backups = path, limit_bytes, backups
        self._file: int | None = None
        self._size = 0

    def append(self, lines: bytes) -> None:
        """The lines, each with its end, are in one file. Raises: OSError; the next call tries anew."""
        try:
            if self._file is None:
                self._open()
            elif self._is_moved():
                self.close()
                self._open()
            if self._size and self._size + len(lines) > self._limit:
                self._rotate()
            assert self._file is not None
            rest = memoryview(lines)
            while rest:
                written = os.write(self._file, rest)
                self._size += written
                rest = rest[written:]
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Nothing is held open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _is_moved(self) -> bool:
        """Somebody else renamed or removed the file: a logrotate of the node's."""
        assert self._file is not None
        try:
            there = self._path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return True
        own = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino)

    def _rotate(self) -> None:
        self.close()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._backups + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        if not self._backups:
            self._path.unlink(missing_ok=True)
        self._open()
