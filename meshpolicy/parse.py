# SPDX-License-Identifier: Apache-2.0
"""From a Kubernetes object, as a map, to a policy."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from meshpolicy.context import PolicyContext
from meshpolicy.decode import DocumentNode
from meshpolicy.errors import NotAPolicyError, PolicyError, refusing_faults
from meshpolicy.parse_cilium import parse_cilium_policy
from meshpolicy.parse_kubernetes import parse_kubernetes_policy
from meshpolicy.parse_tiered import parse_tiered_policy
from meshpolicy.parse_version import check_version
from meshpolicy.reference import PolicyKind, PolicyRef
from meshpolicy.rule import Policy
from meshpolicy.staged import stage

_DEFAULT_NAMESPACE: Final = "default"
_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_OLDER_KINDS: Final = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy")
_POLICY_KINDS: Final = (PolicyKind.CILIUM, PolicyKind.CLUSTERWIDE, PolicyKind.TIERED, PolicyKind.KUBERNETES)
_IN_SMALL_LETTERS: Final = frozenset(kind.lower() for kind in (*_POLICY_KINDS, PolicyKind.CIDR_GROUP))
_ALIKE: Final = 0.88
"""From here on a kind is a misspelt one of ours; the policies of other network plugins are less alike."""


def policy_ref(document: Mapping[str, object]) -> PolicyRef:
    """The name of a policy document. Raises PolicyError for a kind that is no policy or a missing name.

    A namespaced policy without a namespace is in the namespace "default", as kubectl sends it.
    """
    root = DocumentNode(document, "")
    kind = root.text_of("kind")
    if kind in _OLDER_KINDS:
        raise PolicyError(
            f"{kind} is not read, here or by Cilium: it would have no effect",
            where="kind",
            fix=f"write a ClusterNetworkPolicy with tier: {'Baseline' if kind.startswith('Baseline') else 'Admin'}",
        )
    if kind not in _POLICY_KINDS:
        fix = f"write kind: {', '.join(_POLICY_KINDS[:-1])} or {_POLICY_KINDS[-1]}"
        if (
            _lacks_kind(document)
            or kind.lower() in _IN_SMALL_LETTERS
            or get_close_matches(kind[:64], _POLICY_KINDS, 1, _ALIKE)
        ):
            raise PolicyError(f"{kind!r} is no kind" if kind else "there is no kind", where="kind", fix=fix)
        raise NotAPolicyError(f"kind {kind!r} is no policy", where="document", fix=fix)
    metadata = root.get("metadata") or DocumentNode({}, "metadata")
    name, namespace = metadata.text_of("name"), metadata.text_of("namespace")
    if not name and kind != PolicyKind.KUBERNETES:
        metadata.fail("name is missing", "name the policy in metadata.name")
    if kind in (PolicyKind.CLUSTERWIDE, PolicyKind.TIERED):
        return PolicyRef(kind, "", name)
    return PolicyRef(kind, namespace or _DEFAULT_NAMESPACE, name)


def _lacks_kind(document: Mapping[str, object]) -> bool:
    """Whether this is an object of which somebody forgot the kind; values of a chart and the like have none either."""
    return not document.get("kind") and {"metadata", "spec"} <= document.keys()


def parse_policy(document: Mapping[str, object], context: PolicyContext) -> Policy:
    """Read one policy. Raises PolicyError, which names the field; such a document has no effect at all."""
    return refusing_faults(lambda: stage(_parse(document, context), document))


def _parse(document: Mapping[str, object], context: PolicyContext) -> Policy:
    key = policy_ref(document)
    is_cilium = key.kind in (PolicyKind.CILIUM, PolicyKind.CLUSTERWIDE)
    root = DocumentNode(document, "").only(_FIELDS | {"specs"} if is_cilium else _FIELDS)
    check_version(root, key.kind)
    if key.kind == PolicyKind.KUBERNETES:
        return parse_kubernetes_policy(root, key, context)
    if key.kind == PolicyKind.TIERED:
        return parse_tiered_policy(root, key, context)
    return parse_cilium_policy(root, key, context)
