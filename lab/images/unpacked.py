# SPDX-License-Identifier: Apache-2.0
"""Real images in place of the machine's own files: below a directory, NAME/root is an image's root and NAME/config.json its
configuration as OCI writes it (Env, Entrypoint, Cmd)."""

from __future__ import annotations

from pathlib import Path

import orjson

from lab.images.table import Image, short_name


def find_unpacked(directory: Path, reference: str) -> Image | None:
    """The image of this name, if the directory has it. Raises: OSError, ValueError if its configuration is unreadable."""
    root = directory / short_name(reference) / "root"
    if not root.is_dir():
        return None
    config = orjson.loads((root.parent / "config.json").read_bytes())
    return Image(
        tuple(config.get("Entrypoint") or ()),
        tuple(config.get("Cmd") or ()),
        environment=dict(entry.split("=", 1) for entry in config.get("Env") or ()),
        root=str(root.resolve()),
    )
