# SPDX-License-Identifier: Apache-2.0
"""The configuration directory: which clusters are peers, and what changed since it was last read.

Each entry that is not a directory and contains `endpoints:` is a peer named like the file, as in Cilium's directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kvstore.clientconfig import is_client_config
from meshmodel.errors import ModelError
from meshmodel.names import ClusterName, parse_cluster_name

MAX_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Listing:
    """What one reading found; `refused` maps file names to the reason why they are no peers.

    A file named like the own cluster is none either, but no mistake: one directory may be handed to every cluster.
    What is not readable is not gone: `unreadable` names such files, and `is_readable` is false for such a directory.
    """

    configs: Mapping[ClusterName, bytes]
    refused: Mapping[str, str] = field(default_factory=dict)
    has_own: bool = False
    unreadable: frozenset[str] = frozenset()
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class DirectoryDifference:
    """Peers to connect (new or changed content) and peers to remove for good."""

    changed: tuple[ClusterName, ...]
    removed: tuple[ClusterName, ...]


def read_directory(path: Path, own: str) -> Listing:
    """Every peer configured now; a missing directory has none."""
    configs: dict[ClusterName, bytes] = {}
    refused: dict[str, str] = {}
    unreadable: set[str] = set()
    has_own = False
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)  # says what is a directory, too
    except FileNotFoundError:
        return Listing({})
    except OSError as exc:
        return Listing({}, {str(path): f"not readable: {exc.strerror}"}, is_readable=False)
    for entry in entries:
        try:
            content = _read(entry)
        except OSError as exc:
            unreadable.add(entry.name)
            refused[entry.name] = f"not readable: {exc.strerror}"
            continue
        if not is_client_config(content):
            continue
        if entry.name == own:
            has_own = True
            continue
        try:
            configs[parse_cluster_name(entry.name)] = content
        except ModelError as exc:
            refused[entry.name] = str(exc)
    return Listing(configs, refused, has_own, frozenset(unreadable))


def compare(known: Mapping[ClusterName, bytes], listing: Listing) -> DirectoryDifference:
    """Same content is no change, however often the file was touched or swapped. Only what is gone is removed."""
    changed = tuple(sorted(name for name, content in listing.configs.items() if known.get(name) != content))
    if not listing.is_readable:
        return DirectoryDifference(changed, ())
    gone = known.keys() - listing.configs.keys() - listing.unreadable
    return DirectoryDifference(changed, tuple(ClusterName(name) for name in sorted(gone)))


def _read(entry: os.DirEntry[str]) -> bytes:
    """Empty for what is no file, or none any more: a name of Kubernetes' volume may go between two looks."""
    try:
        if entry.is_dir():
            return b""
        with Path(entry).open("rb") as file:
            return file.read(MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return b""
