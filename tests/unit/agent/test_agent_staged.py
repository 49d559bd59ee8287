# SPDX-License-Identifier: Apache-2.0
"""A staged policy changes nothing that is enforced, and verdicts say what it would have decided."""

from __future__ import annotations

from typing import Any

import pytest

from agent.datapath.flow_layout import DatapathEvent, EventType
from agent.datapath.layout import EndpointFlag
from agent.observe.flow import FlowMaker
from agent.observe.sides import Directory
from agent.observe.staged import StagedVerdicts
from agent.policy.compiler import PolicyCompiler
from agent.policy.ops import endpoint_value
from agent.policy.source import strip_policy
from agent.tables import AgentDB, Endpoint, EndpointVerdicts, Identity, NamedPort
from flows.filters import compile_filter
from flows.flags import FilterFlag, make_lists
from flows.proto import flow_pb2 as pb
from flows.text import compact_line
from meshmodel.identity import Reserved
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction, PolicyContext, PolicyRef, endpoint_views, engine
from meshpolicy.proxy_ports import FIRST_PORT, ProxyPorts
from meshpolicy.staged import STAGED_ANNOTATION

NORTH = ClusterName("north")
SERVER, CLIENT, OTHER = 300, 301, 302
ADDRESS = "10.1.0.1"
CLIENTS = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}


@pytest.fixture
def db() -> AgentDB:
    found = AgentDB(NORTH, ClusterId(1))
    macs = "02:00:00:00:00:01", "02:00:00:00:00:02"
    with found.write():
        for number, app in ((SERVER, "server"), (CLIENT, "client"), (OTHER, "other")):
            found.identities.put(Identity(number, NORTH, pod_labels({"app": app}, "default", {}, "default", NORTH)))
        ports = (NamedPort("web", 80, "TCP"),)
        found.endpoints.put(Endpoint(ADDRESS, 1, 7, *macs, SERVER, "default", "server", named_ports=ports))
    return found


@pytest.fixture
def compiler(db: AgentDB) -> PolicyCompiler:
    context = PolicyContext(NORTH, default_local_cluster=False, proxy_ports=ProxyPorts())
    return PolicyCompiler(db, context, lambda _prefixes: None)


def load(compiler: PolicyCompiler, staged: str | None = None, *, name: str = "web", **spec: Any) -> None:
    annotations = {} if staged is None else {STAGED_ANNOTATION: staged, "other": "word"}
    document = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"endpointSelector": {"matchLabels": {"app": "server"}}, **spec},
    }  # fmt: skip
    compiler.set_document(strip_policy(document), PolicyRef("CiliumNetworkPolicy", "default", name))
    compiler.step()


def row(db: AgentDB, address: str = ADDRESS) -> EndpointVerdicts:
    found = db.verdicts.get(address)
    assert found is not None
    return found


def seen(db: AgentDB, compiler: PolicyCompiler, peer: int, port: int = 80, **changes: Any) -> pb.Flow:
    """The flow of a connection to the server for which the kernel wrote an allowing verdict."""
    fields = {
        "timestamp_ns": 1, "type": EventType.POLICY_VERDICT, "reason": 0, "direction": Direction.INGRESS, "protocol": 6,
        "tcp_flags": 2, "endpoint_id": 7, "length": 60, "source_identity": peer, "destination_identity": SERVER,
        "rule_id": 0, "ifindex": 4, "source": "10.2.0.9", "destination": ADDRESS, "source_port": 4000,
        "destination_port": port,
    } | changes  # fmt: skip
    staged = StagedVerdicts(db, compiler.staged)
    maker = FlowMaker(Directory(db, compiler.rule_origin), lambda ns: ns, "n1", "00112233-4455-4677-8899-", staged.of)
    (entry,) = maker.make([DatapathEvent(**fields).pack()])
    return maker.decode(entry, 1)


def says(flow: pb.Flow) -> tuple[str, str]:
    if not flow.HasField("staged"):
        return "", ""
    rule = flow.staged.policy.labels[0].partition("=")[2]
    return pb.Verdict.Name(flow.staged.verdict), rule


def test_a_staged_policy_is_judged_and_not_enforced(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, "true", ingress=[CLIENTS | {"toPorts": [{"ports": [{"port": "web", "protocol": "TCP"}]}]}])
    assert not row(db).policy.ingress_enforced
    assert row(db).watched == {Direction.INGRESS}
    assert endpoint_value(row(db), 1).flags == EndpointFlag.WATCH_INGRESS
    assert says(seen(db, compiler, CLIENT)) == ("FORWARDED", "cnp/default/web ingress[0]")
    assert says(seen(db, compiler, CLIENT, 81)) == ("DROPPED", "cnp/default/web default deny")
    assert says(seen(db, compiler, OTHER)) == ("DROPPED", "cnp/default/web default deny")
    leaving = {"direction": Direction.EGRESS, "source": ADDRESS, "destination": "10.2.0.9"}
    assert says(seen(db, compiler, OTHER, **leaving)) == ("", "")
    (listed,) = db.policies.rows()
    assert (listed.is_valid, listed.is_staged, listed.problems) == (True, True, ())


def test_it_is_judged_together_with_what_is_in_force(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, name="enforced", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "other"}}]}])
    load(compiler, "true", ingress=[CLIENTS])
    assert row(db).policy.verdict(Direction.INGRESS, OTHER, 6, 80).allowed
    assert not row(db).policy.verdict(Direction.INGRESS, CLIENT, 6, 80).allowed
    assert says(seen(db, compiler, OTHER)) == ("FORWARDED", "cnp/default/enforced ingress[0]")
    assert says(seen(db, compiler, CLIENT)) == ("FORWARDED", "cnp/default/web ingress[0]")


def test_switching_it_on_and_off_and_taking_it_away_count_at_once(db: AgentDB, compiler: PolicyCompiler) -> None:
    for value, is_enforced in (("true", False), ("false", True), ("TRUE", False), (None, True)):
        load(compiler, value, ingress=[CLIENTS])
        assert row(db).policy.ingress_enforced is is_enforced
        assert bool(row(db).watched) is not is_enforced
        assert bool(says(seen(db, compiler, OTHER))[0]) is not is_enforced
    load(compiler, "true", ingress=[CLIENTS])
    compiler.remove_document(PolicyRef("CiliumNetworkPolicy", "default", "web"))
    compiler.step()
    assert not row(db).watched
    assert says(seen(db, compiler, OTHER)) == ("", "")


def test_pods_that_came_after_a_staged_policy_hear_that_it_is_gone(db: AgentDB, compiler: PolicyCompiler) -> None:
    """The kernel would go on to tell of each of their connections."""
    load(compiler, "true", name="first", ingress=[CLIENTS])
    late = Endpoint("10.1.0.2", 2, 8, "02:00:00:00:00:03", "02:00:00:00:00:02", CLIENT, "default", "client")
    with db.write():
        db.endpoints.put(late)
    everybody = {"endpointSelector": {}, "egress": [{}]}
    for gone in (None, "false"):
        load(compiler, "true", name="second", **everybody)
        assert row(db, late.address).watched == {Direction.EGRESS}
        if gone is None:
            compiler.remove_document(PolicyRef("CiliumNetworkPolicy", "default", "second"))
            compiler.step()
        else:
            load(compiler, gone, name="second", endpointSelector={"matchLabels": {"app": "nobody"}}, egress=[{}])
        assert row(db, late.address).watched == frozenset()


@pytest.mark.parametrize("word", ["yes", "1", "", " true", "true "])
def test_another_word_stages_nothing_and_is_told(db: AgentDB, compiler: PolicyCompiler, word: str) -> None:
    load(compiler, word, ingress=[CLIENTS])
    assert row(db).policy.ingress_enforced
    (listed,) = db.policies.rows()
    assert listed.problems == (
        f'annotation {STAGED_ANNOTATION}: {word!r} is neither "true" nor "false", so the policy is enforced',
    )


def test_identities_and_pods_that_come_later_are_judged_too(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, "true", ingress=[CLIENTS])
    with db.write():
        db.identities.put(Identity(303, NORTH, pod_labels({"app": "client"}, "default", {}, "default", NORTH)))
        db.identities.delete(CLIENT)
    compiler.step()
    assert says(seen(db, compiler, 303))[0] == "FORWARDED"
    assert says(seen(db, compiler, CLIENT))[0] == "DROPPED"


def test_addresses_outside_are_judged_without_an_identity_of_their_own(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, "true", ingress=[{"fromCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}]}])
    assert not compiler.engine.prefixes()
    for source, verdict in (("192.0.2.7", "FORWARDED"), ("192.0.2.200", "DROPPED"), ("198.51.100.1", "DROPPED")):
        assert says(seen(db, compiler, Reserved.WORLD, source=source))[0] == verdict


def test_outsiders_of_ipv6_are_of_the_world_of_ipv6(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, "true", ingress=[{"fromEntities": ["world-ipv6"]}])
    endpoint = row(db).endpoint
    for address, number, is_allowed in (
        ("2001:db8::1", Reserved.WORLD_IPV6, True),
        ("192.0.2.1", Reserved.WORLD, False),
    ):
        found = compiler.staged.judge(endpoint, Direction.INGRESS, (number, address), (6, 80))
        assert found is not None
        assert found.is_allowed is is_allowed


def test_requests_would_go_to_a_proxy_and_the_node_gets_no_port_for_it(db: AgentDB, compiler: PolicyCompiler) -> None:
    ports = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}
    load(compiler, "true", ingress=[CLIENTS | {"toPorts": [ports]}])
    assert says(seen(db, compiler, CLIENT))[0] == "REDIRECTED"
    context = compiler.engine.context
    assert context.proxy_ports is not None
    assert context.proxy_ports.listener(FIRST_PORT) is None


def test_a_fault_of_the_engine_costs_the_staged_verdicts_only(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(compiler, name="enforced", ingress=[CLIENTS])
    real = engine.activate

    def activate(number: int, rule: Any, *others: Any) -> Any:
        if rule.origin.policy.name == "web":
            raise KeyError("injected")
        return real(number, rule, *others)

    monkeypatch.setattr(engine, "activate", activate)
    load(compiler, "true", ingress=[CLIENTS])
    assert compiler.staged.fault == (
        "staged policies are not judged, internal error of the policy engine: KeyError('injected')"
    )
    assert not compiler.faults
    assert row(db).policy.verdict(Direction.INGRESS, CLIENT, 6, 80).allowed
    assert says(seen(db, compiler, OTHER)) == ("", "")


def test_a_pod_that_staged_rules_would_close_by_their_number_is_judged_so(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flows of the node go on: one object of a tenant must not end them."""
    monkeypatch.setattr(endpoint_views, "MOST_ENTRIES", 100)
    ranges = {"fromCIDR": [f"192.0.2.{n}/32" for n in range(50)]}
    wide = [{"fromCIDR": ["192.0.2.0/24"], "toPorts": [{"ports": [{"port": str(n)}]}]} for n in (1, 2, 3)]
    load(compiler, "true", ingress=[CLIENTS, ranges, *wide])
    assert says(seen(db, compiler, CLIENT)) == ("DROPPED", "cnp/default/web default deny")
    assert "would close the endpoints of identity 300: its rules make" in compiler.staged.fault
    load(compiler, "true", ingress=[CLIENTS])
    assert says(seen(db, compiler, CLIENT))[0] == "FORWARDED"
    assert not compiler.staged.fault


def test_a_fault_with_one_verdict_costs_the_staged_verdicts_only(
    db: AgentDB, compiler: PolicyCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(compiler, "true", ingress=[CLIENTS])
    monkeypatch.delattr(engine.PolicyViews, "policy")
    assert says(seen(db, compiler, CLIENT)) == ("", "")
    assert compiler.staged.fault.startswith("staged policies are not judged, internal error of the policy engine: ")


def test_the_line_says_it_and_flows_are_found_by_it(db: AgentDB, compiler: PolicyCompiler) -> None:
    load(compiler, "true", ingress=[CLIENTS])
    denied, allowed = seen(db, compiler, OTHER), seen(db, compiler, CLIENT)
    assert "policy-verdict:none INGRESS ALLOWED STAGED DENIED BY cnp/default/web default deny (TCP" in compact_line(
        denied
    )
    assert " ALLOWED STAGED ALLOWED BY cnp/default/web ingress[0] (" in compact_line(allowed)
    (wanted,) = make_lists([FilterFlag("staged-verdict", "dropped")]).whitelist
    chosen = compile_filter(wanted)
    assert [chosen.passes(flow) for flow in (denied, allowed, pb.Flow())] == [True, False, False]
