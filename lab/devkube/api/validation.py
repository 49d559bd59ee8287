# SPDX-License-Identifier: Apache-2.0
"""What makes an object unacceptable whatever its schema says: names, labels, and rules between fields. Pure.

Only the mistakes people make often are found here; a production server knows many more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lab.devkube.api.error import Cause, invalid
from lab.devkube.api.field_rules import LABEL, SUBDOMAIN, bad_value, duplicate, label_value, required
from lab.devkube.api.job_rules import check_job
from lab.devkube.api.network_policy_rules import check_network_policy
from lab.devkube.api.objects import Obj, items_of, name_of, part
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.service_rules import check_endpoint_slice, check_service

_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_PATH_NAMED = frozenset({"roles", "rolebindings", "clusterroles", "clusterrolebindings"})
_LABEL_NAMED = frozenset({"namespaces"})


def check(resource: ApiResource, obj: Obj, old: Obj | None) -> None:
    """Raises ApiError 422 naming every field that is wrong; `old` is the stored state, if there is one."""
    causes = [*_name(resource, obj), *_labels(obj)]
    if rule := None if resource.custom else _BY_KIND.get(resource.kind):
        causes.extend(rule(obj, old))
    if causes:
        raise invalid(resource, name_of(obj), causes)


def _name(resource: ApiResource, obj: Obj) -> Iterator[Cause]:
    name = name_of(obj)
    if resource.plural in _PATH_NAMED:
        if name in (".", "..") or "/" in name or "%" in name:
            yield bad_value("metadata.name", name, "may not be '.' or '..' or contain '/' or '%'")
    elif resource.plural == "services":
        if len(name) > 63 or not _SERVICE_NAME.fullmatch(name):
            yield bad_value(
                "metadata.name",
                name,
                "a DNS-1035 label must consist of lower case alphanumeric characters "
                "or '-', start with an alphabetic character, and end with an alphanumeric character",
            )
    elif resource.plural in _LABEL_NAMED:
        if len(name) > 63 or not LABEL.fullmatch(name):
            yield bad_value(
                "metadata.name",
                name,
                "a lowercase RFC 1123 label must consist of lower case alphanumeric "
                "characters or '-', and must start and end with an alphanumeric character",
            )
    elif len(name) > 253 or not SUBDOMAIN.fullmatch(name):
        yield bad_value(
            "metadata.name",
            name,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric "
            "characters, '-' or '.', and must start and end with an alphanumeric character",
        )


def _labels(obj: Obj) -> Iterator[Cause]:
    for field, check_value in (("labels", True), ("annotations", False)):
        for key, value in (obj["metadata"].get(field) or {}).items():
            prefix, slash, name = key.rpartition("/")
            if len(name) > 63 or not _QUALIFIED.fullmatch(name) or (slash and not SUBDOMAIN.fullmatch(prefix)):
                yield bad_value(
                    f"metadata.{field}",
                    key,
                    "name part must consist of alphanumeric characters, '-', '_' "
                    "or '.', and must start and end with an alphanumeric character",
                )
            if check_value:
                yield from label_value(f"metadata.{field}", value)


def _pod_spec(spec: Obj, field: str, claims: frozenset[object] = frozenset()) -> Iterator[Cause]:
    containers = items_of(spec, "containers")
    if not containers:
        yield required(f"{field}.containers")
    volumes = {volume.get("name") for volume in items_of(spec, "volumes")} | claims
    seen: set[object] = set()
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(items_of(spec, kind)):
            here = f"{field}.{kind}[{index}]"
            name = container.get("name")
            if not name:
                yield required(f"{here}.name")
            elif name in seen:
                yield duplicate(f"{here}.name", name)
            seen.add(name)
            if not container.get("image"):
                yield required(f"{here}.image")
            for mount_index, mount in enumerate(items_of(container, "volumeMounts")):
                if mount.get("name") not in volumes:
                    text = f'Not found: "{mount.get("name")}"'
                    yield Cause(f"{here}.volumeMounts[{mount_index}].name", "FieldValueNotFound", text)


def _pod(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    if old is None:
        yield from _pod_spec(part(obj, "spec"), "spec")


def _workload(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = part(obj, "spec")
    selector = part(spec, "selector")
    template = part(spec, "template")
    if not selector:
        yield required("spec.selector")
    labels = part(part(template, "metadata"), "labels")
    wanted = part(selector, "matchLabels")
    if selector and not wanted.items() <= labels.items():
        yield bad_value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    if old is not None and part(old["spec"], "selector") != selector:
        yield bad_value("spec.selector", selector, "field is immutable")
    if int(spec.get("replicas") or 0) < 0:
        yield bad_value("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    claims = frozenset(part(claim, "metadata").get("name") for claim in items_of(spec, "volumeClaimTemplates"))
    yield from _pod_spec(part(template, "spec"), "spec.template.spec", claims)


def _job(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    yield from check_job(obj, old)
    yield from _pod_spec(part(part(part(obj, "spec"), "template"), "spec"), "spec.template.spec")


def _data(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    for field in ("data", "binaryData"):
        for key in part(obj, field):
            if len(key) > 253 or not _DATA_KEY.fullmatch(key):
                yield bad_value(
                    f"{field}[{key}]",
                    key,
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
                )
    if old is not None and old.get("immutable"):
        for field in ("data", "binaryData"):
            if part(obj, field) != part(old, field):
                yield Cause(field, "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")


def _secret(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    yield from _data(obj, old)
    if old is not None and old.get("type") != obj.get("type"):
        yield bad_value("type", obj.get("type"), "field is immutable")


def _binding(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    if not part(obj, "roleRef").get("name"):
        yield required("roleRef.name")
    if old is not None and old.get("roleRef") != obj.get("roleRef"):
        yield bad_value("roleRef", obj.get("roleRef"), "cannot change roleRef")


def _definition(obj: Obj, _old: Obj | None) -> Iterator[Cause]:
    spec = part(obj, "spec")
    names = part(spec, "names")
    for field in ("group", "scope"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    for field in ("plural", "kind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if name_of(obj) != expected:
        yield bad_value("metadata.name", name_of(obj), 'must be spec.names.plural+"."+spec.group')
    versions = items_of(spec, "versions")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield bad_value(
            "spec.versions",
            [v.get("name") for v in versions],
            "must have exactly one version marked as storage version",
        )
    for index, version in enumerate(versions):
        if not part(part(version, "schema"), "openAPIV3Schema"):
            yield required(f"spec.versions[{index}].schema.openAPIV3Schema")


_BY_KIND: dict[str, Callable[[Obj, Obj | None], Iterator[Cause]]] = {
    "Pod": _pod,
    "EndpointSlice": check_endpoint_slice,
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "DaemonSet": _workload,
    "StatefulSet": _workload,
    "Job": _job,
    "Service": check_service,
    "NetworkPolicy": check_network_policy,
    "ConfigMap": _data,
    "Secret": _secret,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "CustomResourceDefinition": _definition,
}
