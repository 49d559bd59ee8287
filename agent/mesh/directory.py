# SPDX-License-Identifier: Apache-2.0
"""The configuration directory: which clusters are peers, and what changed since it was last read.

Each entry that is not a directory and contains `endpoints:` is a peer named like the file (spec/wire 5.1).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshmodel.errors import ModelError
from meshmodel.names import ClusterName, parse_cluster_name

log = logging.getLogger(__name__)

MARKER = b"endpoints:"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Listing:
    """What one reading found; `refused` maps file names to the reason they are no peers.

    A file named like the own cluster is none either, but no mistake: one directory may be handed to every cluster.
    """

    configs: Mapping[ClusterName, bytes]
    refused: Mapping[str, str]
    has_own: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """Peers to connect (new or changed content) and peers to remove for good."""

    changed: tuple[ClusterName, ...]
    removed: tuple[ClusterName, ...]


def read_directory(path: Path, own: ClusterName) -> Listing:
    """Every peer configured now. A missing directory has none; an unreadable file is no peer."""
    configs: dict[ClusterName, bytes] = {}
    refused: dict[str, str] = {}
    has_own = False
    try:
        entries = sorted(path.iterdir())
    except OSError as exc:
        return Listing({}, {} if isinstance(exc, FileNotFoundError) else {str(path): f"not readable: {exc.strerror}"})
    for entry in entries:
        content = _read(entry)
        if content is None or MARKER not in content:
            continue
        if entry.name == own:
            has_own = True
            continue
        try:
            configs[parse_cluster_name(entry.name)] = content
        except ModelError as exc:
            refused[entry.name] = str(exc)
    return Listing(configs, refused, has_own)


def compare(old: Mapping[ClusterName, bytes], new: Mapping[ClusterName, bytes]) -> Difference:
    """Same content is no change, however often the file was touched or swapped."""
    changed = tuple(sorted(name for name, content in new.items() if old.get(name) != content))
    return Difference(changed, tuple(sorted(old.keys() - new.keys())))


def _read(entry: Path) -> bytes | None:
    try:
        if entry.is_dir():
            return None
        with entry.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES)
    except OSError as exc:
        log.warning("peer configuration is not readable", extra={"path": str(entry), "error": str(exc)})
        return None
