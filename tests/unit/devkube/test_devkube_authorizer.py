# SPDX-License-Identifier: Apache-2.0
"""A service account with roles may do what they say; everybody else may do everything."""

from __future__ import annotations

import pytest

from clustermesh_cli.commands.disable import workloads
from lab.devkube.api.accounts import ADMIN, service_account_user
from lab.devkube.api.authorizer import Asked, Authorizer
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj

AGENT, APISERVER, VIEWER = (service_account_user("sys", f"clustermesh-{n}") for n in ("agent", "apiserver", "viewer"))
PLURALS = {
    "ClusterRole": "clusterroles",
    "Role": "roles",
    "ClusterRoleBinding": "clusterrolebindings",
    "RoleBinding": "rolebindings",
}


@pytest.fixture
def authorizer() -> Authorizer:
    cluster = Cluster("172.20.1.0/24")
    cluster.create("namespaces", {"metadata": {"name": "sys"}})
    for obj in workloads("sys"):
        if obj["kind"] in PLURALS:
            kept: Obj = dict(obj)
            cluster.create(PLURALS[obj["kind"]], kept, group="rbac.authorization.k8s.io")
    return Authorizer(cluster)


ALLOWED = [
    (AGENT, Asked("watch", "", "services")),
    (AGENT, Asked("get", "", "configmaps", "sys", "clustermesh-config")),
    (AGENT, Asked("watch", "", "configmaps", "sys", "clustermesh-drained")),
    (AGENT, Asked("patch", "cilium.io", "ciliumnetworkpolicies/status", "shop", "x")),
    (APISERVER, Asked("create", "cilium.io", "ciliumidentities")),
    (APISERVER, Asked("get", path="/v1/status")),
    (VIEWER, Asked("get", path="/v1/kv/get")),
    (ADMIN, Asked("delete", "", "secrets", "sys", "x")),
    (service_account_user("shop", "somebody"), Asked("list", "", "secrets", "shop")),
]
REFUSED = [
    (AGENT, Asked("list", "", "configmaps", "sys")),
    (AGENT, Asked("get", "", "configmaps", "sys", "kube-root-ca.crt")),
    (AGENT, Asked("get", "", "configmaps", "shop", "clustermesh-config")),
    (AGENT, Asked("get", "", "secrets", "sys", "clustermesh-ca")),
    (AGENT, Asked("get", path="/v1/status")),
    (APISERVER, Asked("update", "cilium.io", "ciliumidentities", "", "70000")),
    (APISERVER, Asked("get", path="/v1/flows")),
    (VIEWER, Asked("get", "", "pods", "sys", "x")),
    (VIEWER, Asked("post", path="/v1/status")),
    (service_account_user("shop", "somebody"), Asked("get", path="/v1/flows")),
]


@pytest.mark.parametrize(("user", "asked"), ALLOWED)
def test_what_a_role_says_is_allowed(authorizer: Authorizer, user: object, asked: Asked) -> None:
    assert authorizer.allows(user, asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(("user", "asked"), REFUSED)
def test_everything_else_is_refused(authorizer: Authorizer, user: object, asked: Asked) -> None:
    assert not authorizer.allows(user, asked)  # type: ignore[arg-type]
