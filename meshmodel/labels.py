# SPDX-License-Identifier: Apache-2.0
"""Labels of an identity, and the text form in which they are published. Source: spec of the wire format, 2.4."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from meshmodel.errors import ModelError

CLUSTER_LABEL: Final = "io.cilium.k8s.policy.cluster"
NAMESPACE_LABEL: Final = "io.kubernetes.pod.namespace"
SERVICE_ACCOUNT_LABEL: Final = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABELS_PREFIX: Final = "io.cilium.k8s.namespace.labels."
SOURCE_K8S: Final = "k8s"
SOURCE_RESERVED: Final = "reserved"
SOURCE_ANY: Final = "any"

# What Cilium leaves out of identities by default, because it differs per pod or says nothing about security.
_EXCLUDED: Final = re.compile(
    r"(io\.kubernetes|.*kubernetes\.io|.*beta\.kubernetes\.io|k8s\.io|"
    r"pod-template-generation|pod-template-hash|controller-revision-hash|annotation\.|etcd_node|"
    r"statefulset\.kubernetes\.io/pod-name|apps\.kubernetes\.io/pod-index|batch\.kubernetes\.io/|job-name|controller-uid)"
)
_INCLUDED: Final = re.compile(r"app\.kubernetes\.io")


class Label(NamedTuple):
    """`source:key=value`. Sources: k8s, reserved, cidr, fqdn, any, ..."""

    source: str
    key: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}"


Labels = tuple[Label, ...]


def sort_labels(labels: Iterable[Label]) -> Labels:
    """In the published order: by key, without its source."""
    return tuple(sorted(set(labels), key=lambda label: (label.key, label.source, label.value)))


def parse_label(text: str) -> Label:
    """From `source:key=value`; without a source it is `unspec`. The first `:` ends the source, the first `=` the key."""
    head, equals, value = text.partition("=")
    source, colon, key = head.partition(":")
    if not colon:
        source, key = "unspec", head
    if not key:
        raise ModelError(f"label {text[:128]!r} has no key")
    return Label(source, key, value if equals else "")


def encode_labels(labels: Iterable[Label]) -> bytes:
    """The published value: `source:key=value;` for each label in order, empty values with their `=`."""
    return "".join(f"{label};" for label in sort_labels(labels)).encode()


def decode_labels(value: bytes) -> Labels:
    """The labels of a published value. Raises ModelError when it is not UTF-8 or a part has no key."""
    try:
        text = value.decode()
    except UnicodeDecodeError as exc:
        raise ModelError("labels are not UTF-8") from exc
    return sort_labels(parse_label(part) for part in text.split(";") if part)


def pod_labels(
    labels: Mapping[str, str],
    *,
    namespace: str,
    namespace_labels: Mapping[str, str],
    service_account: str,
    cluster: str,
) -> Labels:
    """The security labels of a pod: its own that matter, its namespace's, and where it runs.

    The labels a pod sets itself cannot stand in for those that say where it runs: these win.
    """
    found = {key: value for key, value in labels.items() if is_security_relevant(key)}
    found.update({f"{NAMESPACE_LABELS_PREFIX}{key}": value for key, value in namespace_labels.items()})
    found[NAMESPACE_LABEL] = namespace
    found[CLUSTER_LABEL] = cluster
    if service_account:
        found[SERVICE_ACCOUNT_LABEL] = service_account
    return sort_labels(Label(SOURCE_K8S, key, value) for key, value in found.items())


def is_security_relevant(key: str) -> bool:
    """Whether a pod's own label becomes part of its identity."""
    if key.startswith(("io.cilium.k8s.", "io.kubernetes.")):
        return False
    return bool(_INCLUDED.match(key)) or not _EXCLUDED.match(key)
