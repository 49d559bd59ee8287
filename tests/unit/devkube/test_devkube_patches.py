# SPDX-License-Identifier: Apache-2.0
"""Patches: what goes in, what comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.devkube.api.error import ApiError
from lab.devkube.api.merge_keys import BuiltInRules, SchemaRules
from lab.devkube.api.objects import Obj
from lab.devkube.api.patch_apply import Applier, server_side_apply
from lab.devkube.api.patch_merge import json_patch, merge_patch
from lab.devkube.api.patch_strategic import strategic_merge

POD: Obj = {
    "spec": {
        "containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}, {"containerPort": 81}]},
            {"name": "b", "image": "b:1"},
        ],
        "tolerations": [{"key": "x"}],
    }
}


def names(obj: Obj) -> list[str]:
    return [container["name"] for container in obj["spec"]["containers"]]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"spec": {"containers": [{"name": "a", "image": "a:2"}]}}, ["a", "b"]),
        ({"spec": {"containers": [{"name": "c", "image": "c:1"}]}}, ["a", "b", "c"]),
        ({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, ["b"]),
        ({"spec": {"containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}]}}, ["b", "c"]),
        ({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}, ["z"]),
        ({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}, ["b", "a"]),
    ],
)
def test_strategic_patch_matches_containers_by_name(patch: Obj, expected: list[str]) -> None:
    assert names(strategic_merge("Pod", POD, patch)) == expected
    assert names(POD) == ["a", "b"]


def test_strategic_patch_keeps_what_it_does_not_mention() -> None:
    patched = strategic_merge("Pod", POD, {"spec": {"containers": [{"name": "a", "image": "a:2"}]}})
    assert patched["spec"]["containers"][0] == POD["spec"]["containers"][0] | {"image": "a:2"}


def test_strategic_patch_replaces_lists_without_a_key() -> None:
    patched = strategic_merge("Pod", POD, {"spec": {"tolerations": [{"key": "y"}]}})
    assert patched["spec"]["tolerations"] == [{"key": "y"}]
    slices = {"ports": [{"port": 1}, {"port": 2}]}
    assert strategic_merge("EndpointSlice", slices, {"ports": [{"port": 2, "name": "n"}]}) == {
        "ports": [{"port": 2, "name": "n"}]
    }


def test_strategic_patch_knows_ports_by_where_they_are() -> None:
    service = {"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 81}]}}
    patched = strategic_merge("Service", service, {"spec": {"ports": [{"port": 80, "name": "http"}]}})
    assert patched["spec"]["ports"] == [{"port": 80, "nodePort": 30000, "name": "http"}, {"port": 81}]
    container = {"name": "a", "ports": [{"containerPort": 81, "$patch": "delete"}]}
    pod = strategic_merge("Pod", POD, {"spec": {"containers": [container]}})
    assert pod["spec"]["containers"][0]["ports"] == [{"containerPort": 80}]


def test_strategic_patch_directives_on_objects() -> None:
    strategy = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    retained = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge("Deployment", strategy, retained)["spec"]["strategy"] == {"type": "Recreate"}
    assert strategic_merge("Deployment", strategy, {"spec": {"strategy": {"$patch": "delete"}}}) == {"spec": {}}
    replaced = {"spec": {"strategy": {"$patch": "replace", "type": "x"}}}
    assert strategic_merge("Deployment", strategy, replaced)["spec"]["strategy"] == {"type": "x"}
    meta = {"metadata": {"finalizers": ["a", "b"]}}
    removed = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}
    assert strategic_merge("Pod", meta, removed)["metadata"]["finalizers"] == ["b", "c"]


def test_a_list_element_without_its_key_is_refused() -> None:
    with pytest.raises(ApiError, match="merge key: name"):
        strategic_merge("Pod", POD, {"spec": {"containers": [{"image": "x"}]}})


VALUES = st.recursive(
    st.sampled_from([None, 0, 1, "", "x"]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def rfc_7396(target: Any, patch: Any) -> Any:
    """The pseudo code of the RFC, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        target = dict(target)
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = rfc_7396(target.get(name), value)
        return target
    return patch


@given(target=OBJECTS, patch=OBJECTS)
def test_merge_patch_is_what_the_rfc_says(target: Obj, patch: Obj) -> None:
    """merge_patch equals the RFC's own pseudo code, and a second application changes nothing."""
    once = merge_patch(target, patch)
    assert once == rfc_7396(target, patch)
    assert merge_patch(once, patch) == once


@given(target=OBJECTS, patch=OBJECTS)
def test_strategic_patch_without_known_lists_is_a_merge_patch(target: Obj, patch: Obj) -> None:
    """Where no list has a key and nothing is a directive, both patches agree but for nulls inside new objects."""
    assert _without_nulls(strategic_merge("None", target, patch)) == _without_nulls(merge_patch(target, patch))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def test_json_patch_applies_all_or_nothing() -> None:
    operations = [{"op": "add", "path": "/a/b", "value": 1}, {"op": "test", "path": "/a/c", "value": 2}]
    original = {"a": {"c": 3}}
    with pytest.raises(ApiError) as raised:
        json_patch(original, operations)
    assert raised.value.code == 422
    assert original == {"a": {"c": 3}}
    with pytest.raises(ApiError) as raised:
        json_patch(original, [{"op": "nonsense", "path": "/a"}])
    assert raised.value.code == 400


def base() -> Obj:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}


def config(**spec: Any) -> Obj:
    return {**base(), "spec": spec}


def applier(name: str, *, force: bool = False) -> Applier:
    return Applier(name, force, "2027-01-01T00:00:00Z")


SERVICE = BuiltInRules("Service")


def test_apply_takes_back_what_it_no_longer_says() -> None:
    first = server_side_apply(base(), config(type="NodePort", selector={"a": "b"}), SERVICE, applier("me"))
    second = server_side_apply(first, config(type="NodePort"), SERVICE, applier("me"))
    assert second["spec"] == {"type": "NodePort"}
    assert len(second["metadata"]["managedFields"]) == 1


def test_apply_conflicts_on_values_and_shares_equal_ones() -> None:
    mine = server_side_apply(base(), config(type="NodePort"), SERVICE, applier("me"))
    shared = server_side_apply(mine, config(type="NodePort"), SERVICE, applier("you"))
    with pytest.raises(ApiError) as raised:
        server_side_apply(shared, config(type="ClusterIP"), SERVICE, applier("you"))
    assert raised.value.details["causes"][0]["field"] == ".spec.type"
    dropped = server_side_apply(shared, config(), SERVICE, applier("you"))
    assert dropped["spec"] == {"type": "NodePort"}


def test_force_takes_a_field_over() -> None:
    mine = server_side_apply(base(), config(type="NodePort"), SERVICE, applier("me"))
    theirs = server_side_apply(mine, config(type="ClusterIP"), SERVICE, applier("you", force=True))
    assert theirs["spec"] == {"type": "ClusterIP"}
    assert [entry["manager"] for entry in theirs["metadata"]["managedFields"]] == ["you"]


def test_apply_owns_list_elements_one_by_one() -> None:
    http, dns = {"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}
    mine = server_side_apply(base(), config(ports=[http]), SERVICE, applier("me"))
    both = server_side_apply(mine, config(ports=[dns]), SERVICE, applier("you"))
    assert both["spec"]["ports"] == [http, dns]
    left = server_side_apply(both, config(ports=[]), SERVICE, applier("me"))
    assert left["spec"]["ports"] == [dns]


def test_apply_of_custom_lists_follows_the_schema() -> None:
    items = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    rules = SchemaRules({"properties": {"spec": {"properties": {"ports": items, "whole": {"type": "array"}}}}})
    mine = server_side_apply(base(), config(ports=[{"name": "a"}], whole=[1]), rules, applier("me"))
    yours = server_side_apply(mine, config(ports=[{"name": "b"}]), rules, applier("you"))
    assert yours["spec"] == {"ports": [{"name": "a"}, {"name": "b"}], "whole": [1]}
    with pytest.raises(ApiError):
        server_side_apply(yours, config(whole=[2]), rules, applier("you"))
