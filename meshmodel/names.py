# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of clusters, and names of services. Source: spec of the wire format, 4.1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType, Self

from meshmodel.errors import ModelError

ClusterName = NewType("ClusterName", str)
ClusterId = NewType("ClusterId", int)
Namespace = NewType("Namespace", str)

MAXIMUM_CLUSTERS: Final = (255, 511)
_NAME: Final = re.compile(r"([a-z0-9][-a-z0-9]*)?[a-z0-9]")


def parse_cluster_name(text: str) -> ClusterName:
    """The name, if it may stand in a mesh. Raises ModelError: 1 to 32 of a-z, 0-9 and -, alphanumeric at both ends, not `default`."""
    if not text or len(text) > 32 or not _NAME.fullmatch(text):
        raise ModelError(
            f"cluster name {text[:64]!r}: use 1 to 32 lower-case letters, digits and '-', with a letter or digit at both ends"
        )
    if text == "default":
        raise ModelError("cluster name 'default' is reserved for clusters outside a mesh: choose another")
    return ClusterName(text)


def check_maximum(maximum: int) -> int:
    """The number of clusters a mesh may have. Raises ModelError unless it is 255 or 511."""
    if maximum not in MAXIMUM_CLUSTERS:
        raise ModelError(f"max-connected-clusters {maximum}: only 255 and 511 are possible")
    return maximum


def check_cluster_id(number: int, maximum: int = 255) -> ClusterId:
    """The id, if it is in range. Raises ModelError: 0 means no mesh, and the top is `maximum`."""
    check_maximum(maximum)
    if not 1 <= number <= maximum:
        raise ModelError(f"cluster id {number}: use 1 to {maximum}, and a different one in every cluster of the mesh")
    return ClusterId(number)


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    """Namespace and name: unique in one cluster, and the same service across the mesh."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `namespace/name`. Raises ModelError otherwise."""
        namespace, slash, name = text.partition("/")
        if not namespace or not slash or not name or "/" in name:
            raise ModelError(f"{text[:128]!r} is not namespace/name")
        return cls(namespace, name)
