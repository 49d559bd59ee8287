# SPDX-License-Identifier: Apache-2.0
"""The account and the role with which the command asks our programs, as `enable` applies them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from meshapi.installed import VIEWER

MANIFEST = Path(__file__).parents[2] / "deploy/manifests/rbac.yaml"


def viewer_manifests(namespace: str) -> Iterator[dict[str, Any]]:
    """Every object of the manifest that is the viewer's."""
    for manifest in yaml.safe_load_all(MANIFEST.read_text().replace("${NAMESPACE}", namespace)):
        if manifest["metadata"]["name"] == VIEWER:
            yield manifest
