# SPDX-License-Identifier: Apache-2.0
"""Security labels: their text on the wire, and which of a pod's labels make its identity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from meshmodel.errors import ModelError

CLUSTER_LABEL: Final = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT_LABEL: Final = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABEL: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX: Final = "io.cilium.k8s.namespace.labels."
OWNED_PREFIX: Final = "io.cilium.k8s."
K8S: Final = "k8s"
RESERVED: Final = "reserved"
CIDR: Final = "cidr"
CIDR_GROUP: Final = "cidrgroup"
FQDN: Final = "fqdn"
NODE: Final = "node"
NODE_KEY: Final = "node-key"
OF_NODES: Final = frozenset({NODE, NODE_KEY})
"""Sources of labels of nodes: what a node has, and which keys it was asked for."""
_order: Final = itemgetter(1, 0)
MAXIMUM_LABELS: Final = 4096
SHARED_LENGTH: Final = 256


class Label(NamedTuple):
    """Where it comes from, key and value; written `source:key=value`."""

    source: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}"


# Sorted by key; equal sets of labels are equal tuples.
Labels = tuple[Label, ...]


def parse_label(text: str) -> Label:
    """From `source:key=value`: the first colon ends the source, the first equals sign the key.

    Without `=` the value is empty; without a source it is `unspec`, as Cilium has it. Raises: ModelError (no key).
    """
    head, _, value = text.partition("=")
    source, colon, key = head.partition(":")
    if not colon:
        source, key = "unspec", head
    if not key:
        raise ModelError(f"label {text[:128]!r} has no key")
    return Label(source, key, value)


# Most labels of a mesh are the same few: sharing them saves time and memory. Long ones are not worth remembering.
_shared_label = lru_cache(maxsize=65536)(parse_label)


def sort_labels(labels: Iterable[Label]) -> Labels:
    """In the order of the wire: by key, then source."""
    return tuple(sorted(labels, key=_order))


def encode_labels(labels: Iterable[Label]) -> bytes:
    """The value of an identity key: every label followed by a semicolon, sorted by key.

    Raises: ModelError when a part has a character that would end it early.
    """
    parts = []
    for label in sort_labels(labels):
        if ";" in label.key or ";" in label.value or "=" in label.key or ":" in label.source:
            raise ModelError(f"label {str(label)[:128]!r} cannot be written: ';' or '=' in the wrong place")
        parts.append(f"{label.source}:{label.key}={label.value};")
    return "".join(parts).encode()


def decode_labels(value: bytes) -> Labels:
    """The labels of an identity value, sorted by key; what has no key is left out, what is no UTF-8 is replaced.

    Raises: ModelError when there are absurdly many.
    """
    pieces = value.decode("utf-8", "replace").split(";", MAXIMUM_LABELS)
    if len(pieces) > MAXIMUM_LABELS:
        raise ModelError(f"more than {MAXIMUM_LABELS} labels")
    labels = [
        _shared_label(piece) if len(piece) <= SHARED_LENGTH else parse_label(piece)
        for piece in pieces
        if _has_key(piece)
    ]
    labels.sort(key=_order)
    return tuple(labels)


def _has_key(piece: str) -> bool:
    head = piece.partition("=")[0]
    return bool(head.partition(":")[2] if ":" in head else head)


def find_label(labels: Labels, key: str, source: str = "") -> Label | None:
    """The label with this key (and source, if given)."""
    return next((label for label in labels if label.key == key and (not source or label.source == source)), None)


def labels_text(labels: Iterable[Label]) -> list[str]:
    """Every label as text, in order: for status pages and the CLI."""
    return [str(label) for label in labels]


def pod_labels(
    labels: Mapping[str, str],
    namespace: str,
    namespace_labels: Mapping[str, str],
    service_account: str,
    cluster: str,
) -> Labels:
    """The labels that make a pod's identity, as Cilium's default filter leaves them.

    Labels of the pod that pretend to be ours (`io.cilium.k8s.`) are dropped; the ones every identity carries are added.
    """
    named = {key: value for key, value in labels.items() if not key.startswith(OWNED_PREFIX)}
    named |= {NAMESPACE_LABELS_PREFIX + key: value for key, value in namespace_labels.items()}
    kept = {key: value for key, value in named.items() if is_identity_relevant(key)}
    kept[NAMESPACE_LABEL] = namespace
    kept[CLUSTER_LABEL] = cluster
    if service_account:
        kept[SERVICE_ACCOUNT_LABEL] = service_account
    return sort_labels(parse_label(f"{K8S}:{key}={value}") for key, value in kept.items())


# Cilium's defaults. A key is dropped when something below ignores it and nothing includes a longer part of it.
_INCLUDED: Final = (NAMESPACE_LABEL, "io.cilium.k8s.namespace.labels", "app.kubernetes.io", CLUSTER_LABEL)
_IGNORED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"io\.kubernetes",
        r"kubernetes\.io",
        r"statefulset\.kubernetes\.io/pod-name",
        r"apps\.kubernetes\.io/pod-index",
        r"batch\.kubernetes\.io/job-completion-index",
        r"batch\.kubernetes\.io/controller-uid",
        r".*beta\.kubernetes\.io",
        r"topology\.kubernetes\.io",
        r"k8s\.io",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
    )
)


@lru_cache(maxsize=4096)
def is_identity_relevant(key: str) -> bool:
    """Whether a label with this key makes a difference to the identity."""
    ignored = min((found.end() for pattern in _IGNORED if (found := pattern.match(key))), default=0)
    if not ignored:
        return True
    included = max((len(prefix) for prefix in _INCLUDED if key.startswith(prefix)), default=0)
    return included > ignored
