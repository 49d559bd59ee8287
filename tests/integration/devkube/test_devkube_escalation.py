# SPDX-License-Identifier: Apache-2.0
"""Who writes roles gives away no right that he has not, as on a real API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.integration.devkube.harness import Kubectl, Served

MANAGER = "rights-manager"
RBAC = "rbac.authorization.k8s.io"
ROLES = {
    "apiGroups": [RBAC],
    "resources": ["roles", "rolebindings"],
    "verbs": ["create", "get", "update", "patch", "delete"],
}
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
LOGS = {"apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["web"], "verbs": ["get"]}


def role(*rules: dict[str, object], name: str = "given") -> str:
    return yaml.safe_dump(
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": name}, "rules": list(rules)}
    )


def binding(kind: str, name: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "given"},
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "somebody"}],
        }
    )


class Manager:
    """A service account that may write roles in its namespace, and has the rights of `PODS` and `LOGS`."""

    def __init__(self, kubectl: Kubectl, served: Served) -> None:
        self._kubectl = kubectl
        cluster, space = served.cluster, kubectl.namespace
        cluster.create("serviceaccounts", {"metadata": {"name": MANAGER, "namespace": space}})
        self.may(served, ROLES, PODS, LOGS)
        subjects = [{"kind": "ServiceAccount", "name": MANAGER, "namespace": space}]
        reference = {"apiGroup": RBAC, "kind": "Role", "name": MANAGER}
        meta = {"name": MANAGER, "namespace": space}
        cluster.create("rolebindings", {"metadata": meta, "roleRef": reference, "subjects": subjects}, RBAC)
        self._token = cluster.service_account_token(space, MANAGER)
        config = yaml.safe_load(kubectl.kubeconfig.read_text())
        config["users"][0]["user"] = {}
        self._path = kubectl.home / "no-user"
        self._path.write_text(yaml.safe_dump(config))

    def may(self, served: Served, *rules: dict[str, object]) -> None:
        """The account's role has these rules from now on."""
        meta = {"name": MANAGER, "namespace": self._kubectl.namespace}
        wanted = {"metadata": meta, "rules": list(rules)}
        if served.cluster.get("roles", MANAGER, self._kubectl.namespace, RBAC) is None:
            served.cluster.create("roles", wanted, RBAC)
        else:
            served.cluster.update("roles", wanted, RBAC)

    async def apply(self, text: str) -> str:
        """What kubectl says, whether it was stored or not."""
        done = await self._kubectl("--token", self._token, "apply", "-f", "-", stdin=text, KUBECONFIG=str(self._path))
        return done.out + done.err

    def remove(self, served: Served) -> None:
        for plural, group in (("rolebindings", RBAC), ("roles", RBAC), ("serviceaccounts", "")):
            for name in (MANAGER, "given"):
                served.cluster.remove(plural, name, self._kubectl.namespace, group)


@pytest.fixture
def manager(kubectl: Kubectl, served: Served) -> Iterator[Manager]:
    made = Manager(kubectl, served)
    yield made
    made.remove(served)


async def test_rights_that_one_has_may_be_given(manager: Manager) -> None:
    assert "role.rbac.authorization.k8s.io/given created" in await manager.apply(role(PODS, LOGS))
    assert "given configured" in await manager.apply(role(PODS | {"verbs": ["get"]}))
    assert "given created" in await manager.apply(binding("Role", "given"))


@pytest.mark.parametrize(
    "rule",
    [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        PODS | {"verbs": ["get", "*"]},
        PODS | {"resources": ["*"]},
        PODS | {"apiGroups": ["*"]},
        {key: value for key, value in LOGS.items() if key != "resourceNames"},
        LOGS | {"resourceNames": ["web", "db"]},
    ],
)
async def test_rights_that_one_has_not_are_not_given(manager: Manager, rule: dict[str, object]) -> None:
    refused = await manager.apply(role(PODS, rule))
    assert "is attempting to grant RBAC permissions not currently held" in refused
    assert "created" not in refused
    await manager.apply(role(PODS))
    assert "not currently held" in await manager.apply(role(PODS, rule)), "nor by a change"


async def test_a_role_with_more_rights_is_not_bound(manager: Manager, kubectl: Kubectl, served: Served) -> None:
    every = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    name = f"everything-{kubectl.version}"
    served.cluster.create("clusterroles", {"metadata": {"name": name}, "rules": [every]}, RBAC)
    try:
        refused = await manager.apply(binding("ClusterRole", name))
        assert '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}' in refused
        manager.may(
            served,
            ROLES,
            {"apiGroups": [RBAC], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": [name]},
        )
        assert "given created" in await manager.apply(binding("ClusterRole", name)), "who may bind it may give it"
    finally:
        served.cluster.remove("clusterroles", name, group=RBAC)


async def test_who_may_escalate_may_give_more_than_he_has(manager: Manager, served: Served) -> None:
    manager.may(served, ROLES, {"apiGroups": [RBAC], "resources": ["roles"], "verbs": ["escalate"]})
    assert "given created" in await manager.apply(role({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}))
