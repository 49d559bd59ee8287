# SPDX-License-Identifier: Apache-2.0
"""Which rights it takes to apply a list of objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kube.access import Right
from kube.resource import CONFIG_MAPS, CRDS, SECRETS, from_manifest

APPLIED: Final = ("get", "create", "patch")


def needed_rights(objects: Iterable[Mapping[str, Any]], namespace: str) -> tuple[Right, ...]:
    """To apply these objects, and to keep certificates and peers in `namespace`; each right once.

    A CRD that exists is left alone, so nobody needs to patch one.
    """
    rights = [Right(verb, SECRETS, namespace) for verb in (*APPLIED, "update")]
    rights += [Right(verb, CONFIG_MAPS, namespace) for verb in APPLIED]
    for obj in objects:
        resource = from_manifest(dict(obj))
        where = str(obj["metadata"].get("namespace") or "")
        verbs = ("get", "create") if resource == CRDS else APPLIED
        rights += [Right(verb, resource, where) for verb in verbs]
    return tuple(dict.fromkeys(rights))
