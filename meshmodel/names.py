# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of clusters and services."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType

from meshmodel.errors import ModelError

ClusterName = NewType("ClusterName", str)
ClusterId = NewType("ClusterId", int)
Namespace = NewType("Namespace", str)

MAXIMUM_NAME_LENGTH: Final = 32
CLUSTER_MAXIMUMS: Final = (255, 511)
RESERVED_NAME: Final = "default"
_CLUSTER_NAME: Final = re.compile(r"([a-z0-9][-a-z0-9]*)?[a-z0-9]")


def parse_cluster_name(text: str) -> ClusterName:
    """A name a cluster of a mesh may have.

    Raises: ModelError saying which rule it breaks.
    """
    if not 1 <= len(text) <= MAXIMUM_NAME_LENGTH:
        raise ModelError(f"cluster name {text[:64]!r}: expected 1 to {MAXIMUM_NAME_LENGTH} characters")
    if _CLUSTER_NAME.fullmatch(text) is None:
        raise ModelError(
            f"cluster name {text!r}: only lower-case letters, digits and '-' are allowed, with a letter or digit at both ends"
        )
    if text == RESERVED_NAME:
        raise ModelError("cluster name 'default' is what unnamed clusters have; choose another one")
    return ClusterName(text)


def check_cluster_id(number: int, maximum: int = 255) -> ClusterId:
    """An id a cluster of a mesh may have, where the mesh has room for `maximum` clusters.

    Raises: ModelError.
    """
    check_maximum(maximum)
    if number == 0:
        raise ModelError("ClusterID 0 is reserved: it means that the cluster is in no mesh")
    if number < 0:
        raise ModelError(f"ClusterID {number} is negative")
    if number > maximum:
        raise ModelError(f"ClusterID > {maximum} is not supported, got {number}")
    return ClusterId(number)


def check_maximum(maximum: int) -> int:
    """The number of clusters a mesh has room for: 255 or 511.

    Raises: ModelError.
    """
    if maximum not in CLUSTER_MAXIMUMS:
        raise ModelError(f"max-connected-clusters {maximum}: only 255 and 511 exist")
    return maximum


class ServiceName(NamedTuple):
    """Namespace and name: unique within one cluster, the same service across the mesh.

    A tuple because it is the key of most look-ups of load balancing, and a tuple is hashed and compared without Python code.
    """

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> ServiceName:
        """From "namespace/name". Raises: ModelError."""
        namespace, slash, name = text.partition("/")
        if not slash or not namespace or not name or "/" in name:
            raise ModelError(f"service name {text[:128]!r}: expected namespace/name")
        return cls(namespace, name)
