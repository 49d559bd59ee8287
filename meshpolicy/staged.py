# SPDX-License-Identifier: Apache-2.0
"""Staged policies: read and judged like others, and not enforced. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from meshpolicy.decode import DocumentNode
from meshpolicy.reference import RuleOrigin
from meshpolicy.rule import Policy

STAGED_ANNOTATION: Final = "mesh.clustermesh.io/staged"
_HOST: Final = "staged host policies are not judged; clustermesh policy diff tells what they would change"


class StagedDecision(NamedTuple):
    """What would be decided, and by which rule; where no rule allows, by the default of a staged policy."""

    is_allowed: bool
    is_proxied: bool
    rule: RuleOrigin


def stage(policy: Policy, document: Mapping[str, object]) -> Policy:
    """The policy, staged if the document's annotation says so.

    Case does not matter. A value that is neither "true" nor "false" stages nothing, so that no mistake opens what the policy
    closes; a warning says it.
    """
    text = _value(document)
    if text is None:
        return policy
    match text.lower():
        case "true":
            told = (*policy.warnings, _HOST) if policy.is_host else policy.warnings
            return replace(policy, is_staged=True, warnings=told)
        case "false":
            return policy
    wrong = f'annotation {STAGED_ANNOTATION}: {text[:40]!r} is neither "true" nor "false", so the policy is enforced'
    return replace(policy, warnings=(*policy.warnings, wrong))


def is_staged(document: Mapping[str, object]) -> bool:
    """Whether the annotation stages the document. Raises: PolicyError where annotations are no map of strings."""
    return (_value(document) or "").lower() == "true"


def unstaged(document: Mapping[str, object]) -> Mapping[str, object]:
    """The document as it is when it is not staged any more. Raises: PolicyError as `is_staged`."""
    if _value(document) is None:
        return document
    metadata = document["metadata"]
    assert isinstance(metadata, Mapping)
    kept = {key: value for key, value in metadata["annotations"].items() if key != STAGED_ANNOTATION}
    return {**document, "metadata": {**metadata, "annotations": kept}}


def _value(document: Mapping[str, object]) -> str | None:
    metadata = DocumentNode(document, "").get("metadata")
    annotations = metadata.get("annotations") if metadata is not None else None
    given = annotations.get(STAGED_ANNOTATION) if annotations is not None else None
    return None if given is None else given.text()
