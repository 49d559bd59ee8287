# SPDX-License-Identifier: Apache-2.0
"""Which peers may use a shared service: the annotation on the Service, and the same in its records. Pure.

Absent means every peer. A value that cannot be read means none: what was meant to be narrow must not become wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from meshmodel.errors import ModelError
from meshmodel.names import parse_cluster_name
from meshmodel.steering import MAXIMUM_CLUSTERS, OTHERS

EXPORT_TO: Final = "mesh.clustermesh.io/export-to"
NOBODY: Final[tuple[str, ...]] = ()


def parse_export_scope(annotations: Mapping[str, str], problems: list[str]) -> tuple[str, ...] | None:
    """The peers that are named, in order of their names; None for all, NOBODY where the value cannot be read."""
    text = annotations.get(EXPORT_TO)
    if text is None or text.strip() == OTHERS:
        return None
    try:
        return decode_scope(text)
    except ModelError as exc:
        problems.append(f"{EXPORT_TO}: {exc}; no cluster may use it")
        return NOBODY


def decode_scope(text: str) -> tuple[str, ...]:
    """Names separated by commas. Raises: ModelError."""
    words = [word.strip() for word in text.split(",")]
    if len(words) > MAXIMUM_CLUSTERS:
        raise ModelError(f"{len(words)} clusters are named, {MAXIMUM_CLUSTERS} at most")
    return tuple(sorted({parse_cluster_name(word) for word in words}))


def encode_scope(scope: Sequence[str]) -> str:
    return ",".join(scope)


def is_exported_to(cluster: str, scope: Sequence[str] | None) -> bool:
    """Whether the cluster may use it."""
    return scope is None or cluster in scope
