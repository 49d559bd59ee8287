# SPDX-License-Identifier: Apache-2.0
"""A directory whose files all change at once: names link to `..data`, and `..data` is a link that is swapped."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lab.devkube.kubelet.volumes import File

CURRENT: Final = "..data"
GROUP_READS: Final = 0o440


def write_directory(directory: Path, files: Mapping[str, File], group: int | None = None) -> bool:
    """The directory shows exactly these files; a reader sees all of the old set or all of the new one.

    A `group` owns the files and may read them, as an fsGroup does.

    Returns whether anything changed.
    """
    current = directory / CURRENT
    if group is not None:
        files = {name: File(file.content, file.mode | GROUP_READS) for name, file in files.items()}
    if current.is_symlink() and _read(current) == dict(files):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    generation = directory / f"..{secrets.token_hex(6)}"
    for name, file in files.items():
        path = generation / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(file.mode)
    generation.mkdir(exist_ok=True)
    old = current.resolve() if current.is_symlink() else None
    fresh = directory / "..data_tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(generation.name)
    fresh.rename(current)
    _link_names(directory, {name.split("/", 1)[0] for name in files})
    if old:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _link_names(directory: Path, names: set[str]) -> None:
    for path in directory.iterdir():
        if path.is_symlink() and path.name != CURRENT and path.name not in names:
            path.unlink()
    for name in names:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"{CURRENT}/{name}")


def _read(directory: Path) -> dict[str, File]:
    found = {}
    for path in directory.resolve().rglob("*"):
        if path.is_file():
            mode = path.stat().st_mode & 0o7777
            found[str(path.relative_to(directory.resolve()))] = File(path.read_bytes(), mode)
    return found
