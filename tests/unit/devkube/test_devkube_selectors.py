# SPDX-License-Identifier: Apache-2.0
"""Selectors, JSON paths, proxy names, routes and ages: small pure functions."""

from __future__ import annotations

import pytest

from lab.devkube.api.column import duration
from lab.devkube.api.error import ApiError
from lab.devkube.api.jsonpath import find_all
from lab.devkube.api.objects import Obj
from lab.devkube.api.proxy import parse_proxy_name
from lab.devkube.api.resource import built_in_catalog
from lab.devkube.api.routes import find_target
from lab.devkube.api.selectors import parse_selector

OBJ: Obj = {
    "metadata": {"name": "x", "labels": {"app": "web", "tier": "front"}},
    "spec": {"nodeName": "worker", "hostNetwork": True},
}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True), ("app=web", True), ("app==web", True), ("app!=web", False), ("app=api", False), ("app", True),
        ("!app", False), ("!absent", True), ("absent", False), ("app in (api, web)", True), ("app in (api)", False),
        ("app notin (api,db)", True), ("absent notin (a)", True), ("absent!=x", True), ("app=web,tier=front", True),
        ("app in (web,api),tier!=front", False), ("k8s.io/name=", False),
    ],
)  # fmt: skip
def test_label_selectors(selector: str, matches: bool) -> None:
    assert parse_selector(selector).matches(OBJ) is matches


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("metadata.name=x", True), ("metadata.name!=x", False), ("spec.nodeName==worker", True),
        ("spec.absent=", True), ("spec.hostNetwork=true", True), ("status.phase!=Failed,metadata.name=x", True),
    ],
)  # fmt: skip
def test_field_selectors(selector: str, matches: bool) -> None:
    assert parse_selector("", selector).matches(OBJ) is matches


@pytest.mark.parametrize("selector", ["a b", "a in b", "(x)"])
def test_nonsense_selectors_are_refused(selector: str) -> None:
    with pytest.raises(ApiError):
        parse_selector(selector)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.replicas", [3]), (".metadata.labels.a\\.b/c", ["dotted"]), (".metadata.labels['a.b/c']", ["dotted"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]), (".spec.list[1]", ["y"]), (".spec.list[-1]", ["y"]),
        (".spec.list[*]", ["x", "y"]), (".spec.absent.deep", []), (".spec.list[9]", []), ("]nonsense[", []),
    ],
)  # fmt: skip
def test_json_paths_of_printer_columns(path: str, found: list[object]) -> None:
    obj = {
        "metadata": {"labels": {"a.b/c": "dotted"}},
        "spec": {"replicas": 3, "list": ["x", "y"]},
        "status": {"conditions": [{"type": "Other", "status": "?"}, {"type": "Ready", "status": "True"}]},
    }
    assert find_all(path, obj) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (3599, "59m"), (3 * 3600, "3h"),
        (4 * 3600 + 1800, "4h30m"), (12 * 3600, "12h"), (50 * 3600, "2d2h"), (30 * 86400, "30d"), (800 * 86400, "2y"),
    ],
)  # fmt: skip
def test_ages_read_as_kubectl_prints_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("web", ("", "web", "")), ("web:80", ("", "web", "80")), ("https:web:443", ("https", "web", "443"))],
)
def test_proxy_names(text: str, parsed: tuple[str, str, str]) -> None:
    assert parse_proxy_name(text) == parsed


def test_nonsense_proxy_names_are_refused() -> None:
    with pytest.raises(ApiError):
        parse_proxy_name("ftp:web:21")


def test_paths_name_resources_objects_and_what_is_below() -> None:
    catalog = built_in_catalog()
    target = find_target(catalog, "/api/v1/namespaces/default/services/web:80/proxy/a/b/")
    assert (target.resource.kind, target.namespace, target.name) == ("Service", "default", "web:80")
    assert (target.subresource, target.rest) == ("proxy", "a/b/")
    space = find_target(catalog, "/api/v1/namespaces/default")
    assert (space.resource.kind, space.name) == ("Namespace", "default")
    everywhere = find_target(catalog, "/apis/apps/v1/deployments")
    assert (everywhere.namespace, everywhere.name) == (None, "")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/api", "/api/v1/absent", "/api/v1/pods/x", "/api/v1/namespaces/a/nodes/x", "/apis/apps/v2/deployments",
        "/api/v1/namespaces/a/pods/x/absent", "/api/v1/namespaces/a/pods/x/log/deeper",
    ],
)  # fmt: skip
def test_paths_that_name_nothing_are_not_found(path: str) -> None:
    with pytest.raises(ApiError) as raised:
        find_target(built_in_catalog(), path)
    assert raised.value.code == 404
