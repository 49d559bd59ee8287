# SPDX-License-Identifier: Apache-2.0
"""Which labels an identity number stands for in its cluster. Source: docs/wire.md, identity value."""

from __future__ import annotations

from typing import Final

from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import IdentityRange, NumericIdentity, Reserved, identity_name
from meshmodel.labels import CIDR, CIDR_GROUP, CLUSTER_LABEL, FQDN, K8S, RESERVED, Label, Labels, decode_labels

MAXIMUM_BYTES: Final = 256 * 1024
OF_ADDRESSES: Final = frozenset({CIDR, CIDR_GROUP, FQDN})
"""Sources of labels by which policies select addresses."""
OF_ENTITIES: Final = frozenset(identity_name(number) for number in Reserved)
"""Keys of reserved: labels by which policies select hosts, the API server and other entities."""


def decode(key_suffix: str, value: bytes, *, cluster: str, identities: IdentityRange) -> tuple[NumericIdentity, Labels]:
    """The number and labels stored under a decimal number by this cluster.

    Raises: RecordError: bad-key, out-of-range, too-large, bad-labels, missing-cluster-label, cluster-mismatch,
    reserved-label.
    """
    identity = decode_key(key_suffix, identities=identities)
    if len(value) > MAXIMUM_BYTES:
        raise RecordError(key_suffix, "too-large", f"{len(value)} bytes")
    try:
        labels = decode_labels(value)
    except ModelError as exc:
        raise RecordError(key_suffix, "bad-labels", str(exc)) from None
    found = False
    for label in labels:
        if label[1] == CLUSTER_LABEL:
            if label[0] != K8S or label[2] != cluster:
                raise RecordError(key_suffix, "cluster-mismatch", f"{label} is not {K8S}:{CLUSTER_LABEL}={cluster}")
            found = True
        elif label[0] != K8S and _is_never_a_pods(label):
            raise RecordError(key_suffix, "reserved-label", f"{str(label)[:128]} is no label of a pod")
    if not found:
        raise RecordError(key_suffix, "missing-cluster-label", f"no label {CLUSTER_LABEL}")
    return identity, labels


def _is_never_a_pods(label: Label) -> bool:
    """Whether policies mean something by it that is no pod: the pod would be let in where only that may."""
    return label.source in OF_ADDRESSES or (label.source == RESERVED and label.key in OF_ENTITIES)


def decode_key(key_suffix: str, *, identities: IdentityRange) -> NumericIdentity:
    """The number a key names; all there is to check when it is deleted.

    Raises: RecordError: bad-key, out-of-range.
    """
    if not key_suffix.isdecimal() or not key_suffix.isascii() or len(key_suffix) > 10:
        raise RecordError(key_suffix, "bad-key", "not a decimal number")
    number = int(key_suffix)
    if not identities.first <= number <= identities.last:
        raise RecordError(key_suffix, "out-of-range", f"not in {identities}")
    return NumericIdentity(number)
