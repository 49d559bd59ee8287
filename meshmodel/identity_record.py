# SPDX-License-Identifier: Apache-2.0
"""An identity and its labels (K8). Source: spec of the wire format, 2.4."""

from __future__ import annotations

from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import IdentityRange, NumericIdentity
from meshmodel.labels import CLUSTER_LABEL, SOURCE_K8S, Labels, decode_labels
from meshmodel.limits import MAXIMUM_KEY_BYTES, MAXIMUM_RECORD_BYTES


def decode_key(key: str, identities: IdentityRange) -> NumericIdentity:
    """The number a key names. Raises RecordError: bad-key, out-of-range. Enough for a deletion."""
    if len(key) > MAXIMUM_KEY_BYTES or not (key.isascii() and key.isdigit()) or len(key) > 10:
        raise RecordError(key, "bad-key", "not a number")
    number = int(key)
    if not identities.contains(number):
        raise RecordError(
            key, "out-of-range", f"the publisher's identities are {identities.first} to {identities.last}"
        )
    return NumericIdentity(number)


def decode(key: str, value: bytes, *, cluster: str, identities: IdentityRange) -> tuple[NumericIdentity, Labels]:
    """Number and labels. Every label saying the cluster must have source k8s and the publisher's name, and one must be there.

    Raises RecordError: bad-key, out-of-range, too-large, bad-labels, missing-cluster-label, cluster-mismatch.
    """
    number = decode_key(key, identities)
    if len(value) > MAXIMUM_RECORD_BYTES:
        raise RecordError(key, "too-large", f"{len(value)} bytes")
    try:
        labels = decode_labels(value)
    except ModelError as exc:
        raise RecordError(key, "bad-labels", str(exc)) from exc
    named = [label for label in labels if label.key == CLUSTER_LABEL]
    if not named:
        raise RecordError(key, "missing-cluster-label", f"no label {CLUSTER_LABEL}")
    for label in named:
        if label.source != SOURCE_K8S or label.value != cluster:
            raise RecordError(key, "cluster-mismatch", f"{label} from {cluster}")
    return number, labels
