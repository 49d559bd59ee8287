# SPDX-License-Identifier: Apache-2.0
"""The images that `make images` built, unpacked as a lab takes them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

BUILT: Final = Path(__file__).parents[1] / "build" / "images" / "built"
"""Which images were built, one name a line; there only where buildah has them."""


def built_images() -> list[str]:
    return BUILT.read_text().split() if BUILT.exists() else []


@contextmanager
def unpacked(folder: Path, images: list[str]) -> Iterator[None]:
    """Below `folder` is each image's root and configuration, until the end."""
    containers = []
    try:
        for image in images:
            containers.append(container := _buildah("from", "--pull-never", image))
            place = folder / image.rsplit("/", 1)[-1].split(":")[0]
            place.mkdir()
            (place / "root").symlink_to(_buildah("mount", container))
            config = json.loads(_buildah("inspect", container))["OCIv1"]["config"]
            (place / "config.json").write_text(json.dumps(config))
        yield
    finally:
        if containers:
            _buildah("rm", *containers)


def _buildah(*words: str) -> str:
    return subprocess.run(["buildah", *words], check=True, capture_output=True, text=True, timeout=120).stdout.strip()
