# SPDX-License-Identifier: Apache-2.0
"""CiliumIdentity → record, or the reason why there is none. Pure."""

from __future__ import annotations

from enum import StrEnum

from kubeintent.rows import IdentityIntent
from meshmodel.errors import ModelError
from meshmodel.identity import IdentityRange
from meshmodel.labels import CLUSTER_LABEL, encode_labels
from meshmodel.names import ClusterName


class IdentityRefusal(StrEnum):
    """Why an identity is not published: every reader would reject it, or no namespace is in its labels."""

    NO_NAMESPACE = "missing-namespace-label"
    NO_CLUSTER = "missing-cluster-label"
    OUT_OF_RANGE = "out-of-range"
    BAD_LABEL = "bad-labels"


def convert_identity(
    identity: IdentityIntent, *, cluster: ClusterName, numbers: IdentityRange
) -> tuple[bytes, bytes] | IdentityRefusal:
    """Key remainder and value."""
    if identity.namespace is None:
        return IdentityRefusal.NO_NAMESPACE
    if not numbers.contains(identity.number):
        return IdentityRefusal.OUT_OF_RANGE
    if not any(_names(label.source, label.key, label.value, cluster) for label in identity.labels):
        return IdentityRefusal.NO_CLUSTER
    try:
        return str(identity.number).encode(), encode_labels(identity.labels)
    except ModelError:
        return IdentityRefusal.BAD_LABEL


def _names(source: str, key: str, value: str, cluster: ClusterName) -> bool:
    return source == "k8s" and key == CLUSTER_LABEL and value == cluster
