# SPDX-License-Identifier: Apache-2.0
"""Which apiVersion each kind of policy document may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshpolicy.decode import DocumentNode
from meshpolicy.reference import PolicyKind

_VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    PolicyKind.CILIUM: ("cilium.io/v2",),
    PolicyKind.CLUSTERWIDE: ("cilium.io/v2",),
    PolicyKind.CIDR_GROUP: ("cilium.io/v2", "cilium.io/v2alpha1"),
    PolicyKind.KUBERNETES: ("networking.k8s.io/v1",),
    PolicyKind.TIERED: ("policy.networking.k8s.io/v1alpha2",),
}


def check_version(root: DocumentNode, kind: str) -> None:
    """The document is of a version that is read here; one without apiVersion is of the newest.

    Raises: PolicyError. Another version may give the same fields another meaning.
    """
    field = root.get("apiVersion")
    known = _VERSIONS[kind]
    if field is not None and field.text() not in known:
        field.fail(f"{field.text()!r} is no version of {kind} that is known here", f"write apiVersion: {known[0]}")
