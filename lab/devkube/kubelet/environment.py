# SPDX-License-Identifier: Apache-2.0
"""A container's environment and command line, as its specification and the objects it refers to spell them. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.devkube.api.objects import Obj, items_of, name_of, namespace_of, part, uid_of

REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")

Find = Callable[[str, str, str], Obj | None]
"""Plural (`configmaps` or `secrets`), namespace and name of an object to its present state."""


class MissingSourceError(Exception):
    """The specification refers to something that is not there (yet); the message is what the pod's status says."""


@dataclass(frozen=True, slots=True)
class DownwardFacts:
    """What the downward API can tell a pod about itself beyond its object."""

    pod_address: str
    host_address: str


def field_value(pod: Obj, path: str, facts: DownwardFacts) -> str:
    """The text behind a fieldRef. Raises: MissingSourceError for a path the downward API does not have."""
    if found := SUBSCRIPT.fullmatch(path):
        return str(part(pod["metadata"], found[1]).get(found[2], ""))
    spec = pod["spec"]
    values = {
        "metadata.name": name_of(pod),
        "metadata.namespace": namespace_of(pod),
        "metadata.uid": uid_of(pod),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": facts.pod_address,
        "status.podIPs": facts.pod_address,
        "status.hostIP": facts.host_address,
        "status.hostIPs": facts.host_address,
    }
    if path in values:
        return str(values[path])
    if path in ("metadata.labels", "metadata.annotations"):
        return "\n".join(f'{k}="{v}"' for k, v in sorted(part(pod["metadata"], path.split(".")[1]).items()))
    raise MissingSourceError(f"field {path!r} is not part of the downward API")


def source_data(kind: str, found: Obj) -> dict[str, bytes]:
    """The contents of a ConfigMap or Secret as bytes per key."""
    if kind == "secrets":
        return {key: base64.b64decode(text) for key, text in part(found, "data").items()}
    data = {key: str(text).encode() for key, text in part(found, "data").items()}
    return data | {key: base64.b64decode(text) for key, text in part(found, "binaryData").items()}


def container_environment(
    pod: Obj, container: Obj, base: Mapping[str, str], facts: DownwardFacts, find: Find
) -> dict[str, str]:
    """Every variable of the container. Raises: MissingSourceError naming what is not there."""
    result = dict(base)
    for source in items_of(container, "envFrom"):
        prefix = source.get("prefix", "")
        result |= {f"{prefix}{key}": value for key, value in _whole_source(pod, source, find).items()}
    for variable in items_of(container, "env"):
        value = _variable(pod, variable, facts, find)
        if value is not None:
            result[variable["name"]] = value if "valueFrom" in variable else expand(value, result)
    return result


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` where NAME is known; `$$` is one dollar sign."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return REFERENCE.sub(replace, text)


def expand_all(texts: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(expand(str(text), variables) for text in texts)


def _whole_source(pod: Obj, source: Obj, find: Find) -> dict[str, str]:
    for field, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
        if field in source:
            found = lookup(pod, kind, source[field].get("name", ""), source[field], find)
            return {key: value.decode() for key, value in source_data(kind, found).items()} if found else {}
    return {}


def _variable(pod: Obj, variable: Obj, facts: DownwardFacts, find: Find) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value") or "")
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], facts)
    for field, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if field in source:
            reference = source[field]
            found = lookup(pod, kind, reference.get("name", ""), reference, find)
            data = source_data(kind, found) if found else {}
            if reference["key"] in data:
                return data[reference["key"]].decode()
            if reference.get("optional"):
                return None
            raise MissingSourceError(f"couldn't find key {reference['key']} in {kind[:-1]} {reference.get('name')}")
    return ""


def lookup(pod: Obj, kind: str, name: str, reference: Obj, find: Find) -> Obj | None:
    """The object a pod refers to; None if it is absent and optional. Raises: MissingSourceError."""
    found = find(kind, namespace_of(pod), name)
    if found is None and not reference.get("optional"):
        raise MissingSourceError(f'{kind[:-1]} "{name}" not found')
    return found
