# SPDX-License-Identifier: Apache-2.0
"""May a caller do this: role-based access control for service accounts that a role binding names, objects for all others.

Users of a lab are its owners, and a service account that nobody gave a role is one of a test: it may use every object, but no
path outside of resources, which are what our programs ask about. A program that comes with roles is held to them, so that a
missing rule shows here and not first in a production cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lab.devkube.api.accounts import Account
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.http import Request
from lab.devkube.api.objects import Obj, items_of, name_of, namespace_of, part
from lab.devkube.api.routes import RequestTarget

GROUP: Final = "rbac.authorization.k8s.io"
_PREFIX: Final = "system:serviceaccount:"
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing a caller wants: a verb on a resource (`pods/proxy` for a subresource), or on a path outside of resources."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f'{self.verb} path "{self.path}"'
        where = f' in the namespace "{self.namespace}"' if self.namespace else " at the cluster scope"
        return f'{self.verb} resource "{self.resource}" in API group "{self.group}"{where}'


def asked_of_request(target: RequestTarget, request: Request) -> Asked:
    """What a request on a resource is in the words of roles."""
    verb = _VERBS.get(request.method, "get" if target.name else "watch" if request.flag("watch") else "list")
    if verb == "delete" and not target.name:
        verb = "deletecollection"
    resource = f"{target.resource.plural}/{target.subresource}" if target.subresource else target.resource.plural
    return Asked(verb, target.resource.group, resource, target.namespace or "", target.name or _selected(request))


def _selected(request: Request) -> str:
    """A list or watch of the object of one name is allowed by a rule for that name."""
    for part_of_selector in request.text("fieldSelector").split(","):
        field, _, value = part_of_selector.partition("=")
        if field == "metadata.name":
            return value.removeprefix("=")
    return ""


def asked_of_review(review: Obj) -> Asked:
    """What a SubjectAccessReview asks about."""
    spec = part(review, "spec")
    if "nonResourceAttributes" in spec:
        attributes = part(spec, "nonResourceAttributes")
        return Asked(str(attributes.get("verb", "")), path=str(attributes.get("path", "")))
    attributes = part(spec, "resourceAttributes")
    names = [str(attributes[field]) for field in ("resource", "subresource") if attributes.get(field)]
    return Asked(
        str(attributes.get("verb", "")),
        str(attributes.get("group", "")),
        "/".join(names),
        str(attributes.get("namespace", "")),
        str(attributes.get("name", "")),
    )


class Authorizer:
    """Decides from the roles and bindings that the cluster holds now."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def allows(self, user: Account, asked: Asked) -> bool:
        """Whether the caller may do it."""
        if not user.name.startswith(_PREFIX):
            return True
        bindings = list(self._bindings(user.name))
        if not bindings:
            return not asked.path
        return any(
            _covers(rule, asked)
            for binding in bindings
            if namespace_of(binding) in ("", asked.namespace)
            for rule in self.rules_of(binding)
        )

    def _bindings(self, user: str) -> Iterator[Obj]:
        namespace, _, name = user.removeprefix(_PREFIX).partition(":")
        for plural in ("clusterrolebindings", "rolebindings"):
            for binding in self._cluster.list(plural, GROUP):
                for subject in items_of(binding, "subjects"):
                    where = subject.get("namespace") or namespace_of(binding)
                    if (subject.get("kind"), where, subject.get("name")) == ("ServiceAccount", namespace, name):
                        yield binding
                        break

    def rules_of(self, binding: Obj) -> Iterator[Obj]:
        """The rules of the role that a binding names; none while there is no such role."""
        ref = part(binding, "roleRef")
        plural, namespace = ("roles", namespace_of(binding)) if ref.get("kind") == "Role" else ("clusterroles", "")
        for role in self._cluster.list(plural, GROUP):
            if (name_of(role), namespace_of(role)) == (ref.get("name"), namespace):
                yield from items_of(role, "rules")


def _covers(rule: Mapping[str, object], asked: Asked) -> bool:
    if not _has(rule, "verbs", asked.verb):
        return False
    if asked.path:
        urls = rule.get("nonResourceURLs") or ()
        assert isinstance(urls, list | tuple)
        return any(url == asked.path or (url.endswith("*") and asked.path.startswith(url[:-1])) for url in urls)
    names = rule.get("resourceNames") or ()
    assert isinstance(names, list | tuple)
    return (
        _has(rule, "apiGroups", asked.group)
        and _has(rule, "resources", asked.resource)
        and (not names or asked.name in names)
    )


def _has(rule: Mapping[str, object], field: str, wanted: str) -> bool:
    values = rule.get(field) or ()
    assert isinstance(values, list | tuple)
    return wanted in values or "*" in values
