# SPDX-License-Identifier: Apache-2.0
"""Which groups, versions and resources there are, in the legacy form and in the aggregated one. Pure."""

from __future__ import annotations

from lab.devkube.api.objects import Obj
from lab.devkube.api.resource import ApiResource, Catalog

AGGREGATED_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_SUBRESOURCE_VERBS = {
    "status": ["get", "patch", "update"],
    "scale": ["get", "patch", "update"],
    "finalize": ["update"],
    "log": ["get"],
    "exec": ["create", "get"],
    "proxy": ["create", "delete", "get", "patch", "update"],
    "binding": ["create"],
    "eviction": ["create"],
    "token": ["create"],
}
_SUBRESOURCE_KINDS = {
    "scale": ("autoscaling", "v1", "Scale"),
    "exec": ("", "v1", "PodExecOptions"),
    "binding": ("", "v1", "Binding"),
    "eviction": ("policy", "v1", "Eviction"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
}
_PROXY_KINDS = {"pods": "PodProxyOptions", "services": "ServiceProxyOptions"}


def api_versions() -> Obj:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(catalog: Catalog) -> Obj:
    groups = [_group(name, versions) for name, versions in catalog.versions().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalog: Catalog, name: str) -> Obj | None:
    """None if no such group is served."""
    versions = catalog.versions().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions) if name and versions else None


def resource_list(catalog: Catalog, group_name: str, version: str) -> Obj | None:
    """Every resource and subresource of one group version; None if it is not served."""
    resources = catalog.in_version(group_name, version)
    if not resources:
        return None
    rows = [row for resource in resources for row in (_row(resource), *_subresource_rows(resource))]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources[0].api_version,
        "resources": rows,
    }


def aggregated(catalog: Catalog, *, core: bool) -> Obj:
    """All resources of the core group, or of all others, in one document."""
    items = [
        {
            "metadata": {"name": name, "creationTimestamp": None},
            "versions": [
                {
                    "version": version,
                    "resources": [_aggregated_row(resource) for resource in catalog.in_version(name, version)],
                    "freshness": "Current",
                }
                for version in versions
            ],
        }
        for name, versions in catalog.versions().items()
        if (name == "") is core
    ]
    kind = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2"}
    return kind | {"metadata": {}, "items": items}


def _group(name: str, versions: list[str]) -> Obj:
    known = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": known, "preferredVersion": known[0]}


def _row(resource: ApiResource) -> Obj:
    row: Obj = {
        "name": resource.plural,
        "singularName": resource.singular or resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        row["shortNames"] = list(resource.short_names)
    if resource.categories:
        row["categories"] = list(resource.categories)
    return row


def _subresource_rows(resource: ApiResource) -> list[Obj]:
    rows: list[Obj] = []
    for name in resource.subresources:
        group_name, version, kind = _subresource_kind(resource, name)
        row: Obj = {"name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced}
        if (group_name, version) != (resource.group, resource.version):
            row |= {"group": group_name, "version": version}
        rows.append(row | {"kind": kind, "verbs": _SUBRESOURCE_VERBS[name]})
    return rows


def _subresource_kind(resource: ApiResource, name: str) -> tuple[str, str, str]:
    if name == "proxy":
        return resource.group, resource.version, _PROXY_KINDS[resource.plural]
    return _SUBRESOURCE_KINDS.get(name, (resource.group, resource.version, resource.kind))


def _aggregated_row(resource: ApiResource) -> Obj:
    def response_kind(group_name: str, version: str, kind: str) -> Obj:
        return {"group": group_name, "version": version, "kind": kind}

    return {
        "resource": resource.plural,
        "responseKind": response_kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular or resource.kind.lower(),
        "verbs": list(resource.verbs),
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
        "subresources": [
            {
                "subresource": name,
                "responseKind": response_kind(*_subresource_kind(resource, name)),
                "verbs": _SUBRESOURCE_VERBS[name],
            }
            for name in resource.subresources
        ],
    }
