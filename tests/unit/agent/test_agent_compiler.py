# SPDX-License-Identifier: Apache-2.0
"""What becomes of a policy that is edited into nonsense, and of identities that the store loses."""

from __future__ import annotations

from typing import Any

from agent.policy.compiler import PolicyCompiler
from agent.tables import AgentDB, Endpoint, Identity
from meshkit.table import TOMBSTONES_BEYOND_SIZE
from meshmodel.identity import NumericIdentity
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction, PolicyContext, policy_ref


def policy(egress: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "guard", "namespace": "shop"},
        "spec": {"endpointSelector": {}, "egress": egress},
    }


CLOSED = policy([{}])
BROKEN = policy([{"toPorts": [{"ports": [{"port": "80", "protocol": "PIGEON"}]}]}])


def make() -> PolicyCompiler:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    return PolicyCompiler(db, PolicyContext("north"), lambda _: None)


def in_force(compiler: PolicyCompiler) -> list[str]:
    return [str(p.key.name) for p in compiler.engine.policies() if p.rules]


def test_a_mistake_in_an_edit_leaves_the_last_valid_form_in_force_and_says_so() -> None:
    compiler = make()
    ref = policy_ref(CLOSED)
    assert compiler.set_document(CLOSED, ref).is_valid
    row = compiler.set_document(BROKEN, ref)
    assert not row.is_valid
    assert "PIGEON" in row.message
    assert "the last valid form stays in force" in row.message
    assert in_force(compiler) == ["guard"]
    compiler.remove_document(ref)
    assert in_force(compiler) == []


def test_a_policy_that_was_never_valid_has_no_effect() -> None:
    compiler = make()
    row = compiler.set_document(BROKEN, policy_ref(BROKEN))
    assert not row.is_valid
    assert "stays in force" not in row.message
    assert in_force(compiler) == []


def test_a_removed_policy_is_not_remembered_as_valid() -> None:
    compiler = make()
    ref = policy_ref(CLOSED)
    compiler.set_document(CLOSED, ref)
    compiler.remove_document(ref)
    assert "stays in force" not in compiler.set_document(BROKEN, ref).message


def test_a_pod_whose_identity_the_store_loses_stays_enforced_and_is_denied() -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    compiler = PolicyCompiler(db, PolicyContext("north"), lambda _: None)
    compiler.set_document(CLOSED, policy_ref(CLOSED))
    row = Identity(65_537, db.own, pod_labels({"app": "p"}, "shop", {}, "default", db.own))
    with db.write():
        db.identities.put(row)
        db.endpoints.put(Endpoint("10.1.0.5", 7, 12, "02:00:00:00:00:01", "02:00:00:00:00:02", 65_537, "shop", "p"))
    compiler.step()
    before = db.verdicts.get("10.1.0.5")
    assert before is not None
    assert (before.policy.egress_enforced, before.policy.ingress_enforced) == (True, False)
    with db.write():
        db.identities.delete(65_537)
    compiler.step()
    lost = db.verdicts.get("10.1.0.5")
    assert lost is not None
    assert (lost.policy.egress_enforced, lost.policy.ingress_enforced) == (True, True)
    with db.write():
        db.identities.put(row)
    compiler.step()
    assert db.verdicts.get("10.1.0.5") == before


def test_an_identity_whose_deletion_is_forgotten_is_not_known_any_more() -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    compiler = PolicyCompiler(db, PolicyContext("north"), lambda _: None)
    client, server = 65_537, 65_538
    with db.write():
        for number, app in ((client, "client"), (server, "server")):
            db.identities.put(Identity(number, db.own, pod_labels({"app": app}, "shop", {}, "default", db.own)))
        mac = "02:00:00:00:00:01"
        db.endpoints.put(Endpoint("10.1.0.5", 7, 12, mac, mac, server, "shop", "server"))
    compiler.set_document(policy([{"toEndpoints": [{"matchLabels": {"app": "client"}}]}]), policy_ref(CLOSED))
    compiler.step()
    with db.write():
        db.identities.delete(client)
    for number in range(70_000, 70_000 + TOMBSTONES_BEYOND_SIZE + 10):
        with db.write():
            db.identities.put(Identity(number, db.own, ()))
        with db.write():
            db.identities.delete(number)
    compiler.step()
    verdicts = db.verdicts.get("10.1.0.5")
    assert verdicts is not None
    assert not verdicts.policy.verdict(Direction.EGRESS, client, 6, 80).allowed
    assert compiler.engine.labels_of(NumericIdentity(client)) is None
