# SPDX-License-Identifier: Apache-2.0
"""A fault of the policy engine costs one policy, kept closed and reported; the agent and all other policies go on."""

from __future__ import annotations

from typing import Any

import pytest

from agent.policy.compiler import PolicyCompiler
from agent.tables import AgentDB, Endpoint, Identity
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction, PolicyContext, PolicyRef, differences, endpoint_views, engine
from meshpolicy.active_rules import ActiveRule

SERVER, CLIENT = 300, 301
NORTH = ClusterName("north")


def endpoint(identity: int) -> Endpoint:
    return Endpoint("10.1.0.1", 1, 7, "02:00:00:00:00:01", "02:00:00:00:00:02", identity, "default", "server")


@pytest.fixture
def db() -> AgentDB:
    found = AgentDB(NORTH, ClusterId(1))
    with found.write():
        for number, app in ((SERVER, "server"), (CLIENT, "client")):
            labels = pod_labels({"app": app}, "default", {}, "default", NORTH)
            found.identities.put(Identity(number, NORTH, labels))
        found.endpoints.put(endpoint(SERVER))
    return found


@pytest.fixture
def compiler(db: AgentDB) -> PolicyCompiler:
    return PolicyCompiler(db, PolicyContext(NORTH, default_local_cluster=False), lambda _prefixes: None)


@pytest.fixture
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine fails halfway through every rule of a policy named "bad" that has peers."""
    real = engine.activate

    def activate(number: int, rule: Any, peers: Any, selections: Any) -> ActiveRule:
        active = real(number, rule, peers, selections)
        if rule.origin.policy.name == "bad" and rule.peers:
            raise KeyError("injected")
        return active

    monkeypatch.setattr(engine, "activate", activate)


def document(name: str, **spec: Any) -> dict[str, Any]:
    subject = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {"kind": "CiliumNetworkPolicy", "metadata": {"name": name}, "spec": {**subject, **spec}}


def ref(name: str) -> PolicyRef:
    return PolicyRef("CiliumNetworkPolicy", "default", name)


def allows(db: AgentDB, peer: int) -> bool:
    row = db.verdicts.get("10.1.0.1")
    assert row is not None
    return row.policy.verdict(Direction.INGRESS, peer, 6, 80).allowed


CLIENTS = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}


@pytest.mark.usefixtures("_faulty")
def test_a_policy_that_the_engine_fails_on_is_closed_and_says_so(db: AgentDB, compiler: PolicyCompiler) -> None:
    row = compiler.set_document(document("bad", ingress=[CLIENTS]), ref("bad"))
    compiler.step()
    assert not row.is_valid
    assert "internal error of the policy engine, kept closed: KeyError('injected')" in row.message
    assert not allows(db, CLIENT)
    assert list(compiler.faults) == ["cnp/default/bad"]


@pytest.mark.usefixtures("_faulty")
def test_what_other_policies_allow_stays_allowed_beside_one_that_only_allows(
    db: AgentDB, compiler: PolicyCompiler
) -> None:
    compiler.set_document(document("good", ingress=[CLIENTS]), ref("good"))
    compiler.set_document(document("bad", ingress=[CLIENTS]), ref("bad"))
    compiler.step()
    assert allows(db, CLIENT)
    assert differences(compiler.engine) == ()


@pytest.mark.usefixtures("_faulty")
def test_a_policy_with_denials_that_the_engine_fails_on_denies_everything_of_its_direction(
    db: AgentDB, compiler: PolicyCompiler
) -> None:
    compiler.set_document(document("good", ingress=[{"fromEntities": ["all"]}]), ref("good"))
    compiler.set_document(document("bad", ingressDeny=[CLIENTS]), ref("bad"))
    compiler.step()
    assert not allows(db, CLIENT)


@pytest.mark.usefixtures("_faulty")
def test_a_mended_or_removed_policy_is_in_force_as_it_says_again(db: AgentDB, compiler: PolicyCompiler) -> None:
    compiler.set_document(document("bad", ingress=[CLIENTS]), ref("bad"))
    row = compiler.set_document(document("bad", ingress=[{"toPorts": [{"ports": [{"port": "80"}]}]}]), ref("bad"))
    compiler.step()
    assert row.is_valid
    assert allows(db, CLIENT)
    compiler.set_document(document("bad", ingress=[CLIENTS]), ref("bad"))
    compiler.remove_document(ref("bad"))
    compiler.step()
    assert allows(db, CLIENT)
    assert compiler.faults == {}
    assert differences(compiler.engine) == ()


def test_a_group_that_makes_a_policy_fail_closes_that_policy_and_its_row_says_so(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_group = {"fromCIDRSet": [{"cidrGroupRef": "outside"}]}
    assert compiler.set_document(document("by-group", ingress=[by_group]), ref("by-group")).is_valid
    compiler.set_document(document("good", ingress=[CLIENTS]), ref("good"))
    real = engine.activate

    def activate(number: int, rule: Any, peers: Any, selections: Any) -> ActiveRule:
        if rule.origin.policy.name == "by-group" and peers:
            raise RuntimeError("injected")
        return real(number, rule, peers, selections)

    monkeypatch.setattr(engine, "activate", activate)
    group = {"kind": "CiliumCIDRGroup", "metadata": {"name": "outside"}, "spec": {"externalCIDRs": ["192.0.2.0/24"]}}
    compiler.set_document(group, PolicyRef("CiliumCIDRGroup", "", "outside"))
    compiler.step()
    row = db.policies.get(("CiliumNetworkPolicy", "default", "by-group"))
    assert row is not None
    assert not row.is_valid
    assert "kept closed" in row.message
    assert allows(db, CLIENT)


def test_an_endpoint_whose_policy_cannot_be_computed_is_closed(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.set_document(document("good", ingress=[CLIENTS]), ref("good"))

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(compiler.engine, "endpoint_policy", fail)
    compiler.step()
    assert not allows(db, CLIENT)
    assert list(compiler.faults) == [f"endpoint identity {SERVER}"]


def test_an_endpoint_of_unknown_identity_is_open_again_when_the_last_policy_goes(
    db: AgentDB, compiler: PolicyCompiler
) -> None:
    with db.write():
        db.endpoints.put(endpoint(999))
    compiler.step()
    assert allows(db, CLIENT)
    compiler.set_document(document("good", ingress=[CLIENTS]), ref("good"))
    compiler.step()
    assert not allows(db, CLIENT)
    compiler.remove_document(ref("good"))
    compiler.step()
    assert allows(db, CLIENT)


def test_an_endpoint_of_unknown_identity_stays_closed_while_a_broken_edit_leaves_a_policy_in_force(
    db: AgentDB, compiler: PolicyCompiler
) -> None:
    compiler.set_document(document("good", ingress=[CLIENTS]), ref("good"))
    compiler.set_document(document("good", ingress="nonsense"), ref("good"))
    with db.write():
        db.endpoints.put(endpoint(999))
    compiler.step()
    assert not allows(db, CLIENT)


def test_an_endpoint_whose_rules_name_more_peers_than_any_map_holds_is_closed_until_they_do_not(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges times rules: an object of a megabyte would take minutes of every agent's time and all its memory."""
    monkeypatch.setattr(endpoint_views, "MOST_ENTRIES", 1_000)
    ranges = {"fromCIDR": [f"192.0.2.{n}/32" for n in range(50)]}
    wide = [{"fromCIDR": ["192.0.2.0/24"], "toPorts": [{"ports": [{"port": str(n)}]}]} for n in range(1, 41)]
    assert compiler.set_document(document("small", ingress=[CLIENTS]), ref("small")).is_valid
    compiler.set_document(document("large", ingress=[ranges, *wide]), ref("large"))
    compiler.step()
    assert not allows(db, CLIENT)
    ((what, why),) = compiler.faults.items()
    assert what == f"endpoint identity {SERVER}"
    assert "and 1000 is the most: name fewer ranges" in why
    compiler.set_document(document("large", ingress=[ranges, *wide[:5]]), ref("large"))
    compiler.step()
    assert allows(db, CLIENT)
    assert not compiler.faults
    compiler.set_document(document("large", ingress=[ranges, *wide]), ref("large"))
    compiler.step()
    compiler.remove_document(ref("large"))
    compiler.step()
    assert allows(db, CLIENT)
    assert not compiler.faults
