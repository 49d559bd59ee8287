# SPDX-License-Identifier: Apache-2.0
"""Nobody gives away rights that he has not: what writing a role or a binding asks for.

As in Kubernetes, `escalate` on the role and `bind` on the role that is bound are the ways past it. Whom the Authorizer lets do
everything may give everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final

from lab.devkube.api.accounts import Account
from lab.devkube.api.authorizer import GROUP, Asked, Authorizer
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, items_of, name_of, namespace_of, part
from lab.devkube.api.resource import ApiResource

ROLES: Final = ("roles", "clusterroles")
BINDINGS: Final = ("rolebindings", "clusterrolebindings")


def check_grant(authorizer: Authorizer, user: Account, resource: ApiResource, obj: Obj, old: Obj | None) -> None:
    """Raises: ApiError 403 if storing this object would give rights to somebody that its writer has not."""
    if resource.group != GROUP:
        return
    namespace = namespace_of(obj) if resource.namespaced else ""
    if resource.plural in ROLES:
        if old is not None and old.get("rules") == obj.get("rules"):
            return
        rules, way = items_of(obj, "rules"), Asked("escalate", GROUP, resource.plural, namespace, name_of(obj))
    elif resource.plural in BINDINGS:
        if old is not None and old.get("subjects") == obj.get("subjects"):
            return
        reference = part(obj, "roleRef")
        bound = "roles" if reference.get("kind") == "Role" else "clusterroles"
        rules = list(authorizer.rules_of(obj))
        way = Asked("bind", GROUP, bound, namespace, str(reference.get("name", "")))
    else:
        return
    if authorizer.allows(user, way):
        return
    missing = [rule for rule in rules if not all(authorizer.allows(user, asked) for asked in _rights(rule, namespace))]
    if missing:
        raise ApiError(403, "Forbidden", _refusal(user, resource, obj, missing))


def _rights(rule: Obj, namespace: str) -> Iterator[Asked]:
    """Everything that a rule gives, one by one. A `*` is only had by who has `*`."""
    verbs = [str(verb) for verb in rule.get("verbs") or ()]
    for verb, url in product(verbs, rule.get("nonResourceURLs") or ()):
        yield Asked(verb, path=str(url))
    names = rule.get("resourceNames") or ("",)
    for verb, group, resource, name in product(verbs, rule.get("apiGroups") or (), rule.get("resources") or (), names):
        yield Asked(verb, str(group), str(resource), namespace, str(name))


def _refusal(user: Account, resource: ApiResource, obj: Obj, missing: Sequence[Obj]) -> str:
    shown = "\n".join(_go_rule(rule) for rule in missing)
    groups = json.dumps([*user.info()["groups"]])
    return (
        f'{resource.qualified} "{name_of(obj)}" is forbidden: user "{user.name}" (groups={groups}) is attempting to grant RBAC '
        f"permissions not currently held:\n{shown}"
    )


def _go_rule(rule: Obj) -> str:
    names: dict[str, Any] = {
        "APIGroups": "apiGroups",
        "Resources": "resources",
        "ResourceNames": "resourceNames",
        "NonResourceURLs": "nonResourceURLs",
        "Verbs": "verbs",
    }
    return (
        "{" + ", ".join(f"{shown}:{json.dumps(rule[field])}" for shown, field in names.items() if rule.get(field)) + "}"
    )
