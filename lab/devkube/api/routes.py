# SPDX-License-Identifier: Apache-2.0
"""From a request path to what it names. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lab.devkube.api.error import no_such_path
from lab.devkube.api.resource import ApiResource, Catalog

_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What a path names: a resource, maybe one object of it, maybe a subresource of that and a path below it.

    A namespace of None means all of them, or a kind that has none.
    """

    resource: ApiResource
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    rest: str = ""


def find_target(catalog: Catalog, path: str) -> RequestTarget:
    """Raises ApiError 404 for a path that names nothing."""
    segments = path.strip("/").split("/")
    if segments[:2] == ["api", "v1"]:
        group, version, below = "", "v1", segments[2:]
    elif segments[0] == "apis" and len(segments) > 3:
        group, version, below = segments[1], segments[2], segments[3:]
    else:
        raise no_such_path()
    namespace = None
    if below[:1] == ["namespaces"] and len(below) > 2 and below[2] not in _NAMESPACE_SUBRESOURCES:
        namespace, below = below[1], below[2:]
    plural, name, subresource, *rest = [*below, "", "", ""][: max(len(below), 3)]
    resource = catalog.find(group, version, plural)
    if resource is None or (namespace is not None and not resource.namespaced):
        raise no_such_path()
    if name and resource.namespaced and namespace is None:
        raise no_such_path()
    if subresource and subresource not in resource.subresources:
        raise no_such_path()
    if rest and subresource != "proxy":
        raise no_such_path()
    slash = "/" if path.endswith("/") and rest else ""
    return RequestTarget(resource, namespace, name, subresource, "/".join(rest) + slash)


def discovery_target(path: str) -> tuple[str, str] | None:
    """The group version whose resources a path asks for; None if it is no such path."""
    match path.strip("/").split("/"):
        case ["api", version]:
            return "", version
        case ["apis", group, version]:
            return group, version
        case _:
            return None
