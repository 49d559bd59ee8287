# SPDX-License-Identifier: Apache-2.0
"""What our own account may do, asked of the API server before anything is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kube.client import KubeClient
from kube.resource import SELF_SUBJECT_ACCESS_REVIEWS, Resource


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind, in one namespace or (empty) in the cluster."""

    verb: str
    resource: Resource
    namespace: str = ""

    def __str__(self) -> str:
        kind = ".".join(part for part in (self.resource.plural, self.resource.group) if part)
        return f"{self.verb} {kind}{f' in namespace {self.namespace}' if self.namespace else ''}"


def missing(client: KubeClient, rights: Iterable[Right]) -> list[Right]:
    """Those that our account has not, in the order given. Raises: KubeError where the server does not say."""
    return [right for right in rights if not _may(client, right)]


def _may(client: KubeClient, right: Right) -> bool:
    asked = {"verb": right.verb, "group": right.resource.group, "resource": right.resource.plural}
    spec = {"resourceAttributes": {**asked, "namespace": right.namespace}}
    review = client.create(SELF_SUBJECT_ACCESS_REVIEWS, {"metadata": {}, "spec": spec})
    return bool((review.get("status") or {}).get("allowed"))
