# SPDX-License-Identifier: Apache-2.0
"""A directory whose files all change at once: names link to `..data`, and `..data` is a link that is swapped."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lab.devkube.kubelet.volumes import File

CURRENT: Final = "..data"


def write_directory(directory: Path, files: Mapping[str, File]) -> bool:
    """The directory shows exactly these files; a reader sees all of the old set or all of the new one.

    Returns whether anything changed.
    """
    current = directory / CURRENT
    if current.is_symlink() and _read(current) == dict(files):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    generation = directory / f"..{secrets.token_hex(6)}"
    for name, file in files.items():
        path = generation / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
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
