# SPDX-License-Identifier: Apache-2.0
"""Lists of DNS names: which of them a peer may be asked for, how those of several policies come together, and without a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy import Direction, Engine, PolicyKind, PolicyRef, closed
from meshpolicy.asked import parse_name
from meshpolicy.dns_name import allows_name
from meshpolicy.evaluate import evaluate
from meshpolicy.proxy_ports import DNS, FIRST_PORT, HTTP, ProxyPorts
from meshpolicy.rebuild import differences
from tests.unit.meshpolicy.policy_world import CLIENT, SERVER, build, policy

TO_SERVER = [{"matchLabels": {"app": "server"}}]
GOOGLE = {"matchName": "google.com"}
EXAMPLE = {"matchPattern": "*.example.com"}
TCP, UDP = 6, 17
ASKED = ("google.com.", "www.example.com.", "github.com.")


def _ports(*names: dict[str, str], protocol: str = "ANY") -> list[Any]:
    return [{"ports": [{"port": "53", "protocol": protocol}], "rules": {"dns": list(names)}}]


def _egress(engine: Engine, name: str, ports: list[Any], **more: Any) -> None:
    rule = {"toEndpoints": TO_SERVER, "toPorts": ports}
    engine.set_policy(policy(engine, name, app="client", egress=[rule], **more))


def _names(engine: Engine, protocol: int = UDP, where: int = 53) -> list[str] | None:
    """Of ASKED, what the client may ask the server; None: it is no business of the proxy."""
    verdict = engine.endpoint_policy(CLIENT).verdict(Direction.EGRESS, SERVER, protocol, where)
    if not verdict.allowed:
        return []
    assert verdict.entry is not None
    if not verdict.entry.proxy_port:
        return None
    assert engine.context.proxy_ports is not None
    listener = engine.context.proxy_ports.listener(verdict.entry.proxy_port)
    assert listener is not None
    assert listener.names is not None
    return [name for name in ASKED if allows_name(listener.names, name)]


@pytest.fixture
def engine() -> Engine:
    return build(proxy_ports=ProxyPorts())


def test_a_list_is_for_both_protocols_and_lists_are_united(engine: Engine) -> None:
    _egress(engine, "a", _ports(GOOGLE))
    assert _names(engine, UDP) == _names(engine, TCP) == ["google.com."]
    _egress(engine, "b", _ports(EXAMPLE, protocol="UDP"))
    assert (_names(engine, UDP), _names(engine, TCP)) == (["google.com.", "www.example.com."], ["google.com."])
    engine.remove_policy(PolicyRef(PolicyKind.CILIUM, "default", "a"))
    assert (_names(engine, UDP), _names(engine, TCP)) == (["www.example.com."], [])
    assert differences(engine) == ()


@pytest.mark.parametrize("open_port", [[{"ports": [{"port": "53", "protocol": "UDP"}]}], _ports({"matchPattern": "*"})])
def test_what_is_open_is_seen_nevertheless(engine: Engine, open_port: list[Any]) -> None:
    _egress(engine, "a", _ports(GOOGLE))
    _egress(engine, "b", open_port)
    assert _names(engine) == list(ASKED)


def test_an_entry_that_names_nothing_allows_nothing(engine: Engine) -> None:
    _egress(engine, "a", _ports({}))
    assert _names(engine) == []


def test_an_empty_list_restricts_nothing(engine: Engine) -> None:
    _egress(engine, "a", _ports(protocol="TCP"))
    assert _names(engine, TCP) is None


def test_rules_of_two_kinds_for_one_port_close_it(engine: Engine) -> None:
    _egress(engine, "a", _ports(GOOGLE))
    _egress(engine, "b", [{"ports": [{"port": "53", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}])
    assert (_names(engine, UDP), _names(engine, TCP)) == (["google.com."], [])
    assert engine.context.proxy_ports is not None
    assert engine.context.proxy_ports.mixed
    engine.remove_policy(PolicyRef(PolicyKind.CILIUM, "default", "b"))
    assert _names(engine, TCP) == ["google.com."]


@pytest.mark.parametrize("ports", [None, ProxyPorts(frozenset({HTTP}))])
def test_without_a_proxy_only_the_list_of_every_name_opens_its_port(ports: ProxyPorts | None) -> None:
    engine = build(proxy_ports=ports)
    _egress(engine, "a", _ports(GOOGLE))
    assert _names(engine) == []
    assert "a list of DNS names cannot be enforced yet" in next(iter(engine.policies())).problems[0]
    _egress(engine, "a", _ports({"matchPattern": "*"}))
    assert _names(engine) is None


def test_without_envoy_names_are_enforced_and_requests_denied() -> None:
    engine = build(proxy_ports=ProxyPorts(frozenset({DNS})))
    _egress(engine, "a", _ports(GOOGLE))
    assert _names(engine) == ["google.com."]
    _egress(engine, "b", [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}])
    assert _names(engine, TCP, 80) == []


def test_a_case_may_say_which_name_is_asked_for() -> None:
    spec = {"endpointSelector": {}, "egress": [{"toEndpoints": [{}], "toPorts": _ports(GOOGLE, EXAMPLE)}]}
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "a"}, "spec": spec}
    pod = ["k8s:io.kubernetes.pod.namespace=a", "k8s:io.cilium.k8s.policy.cluster=default"]
    asked: list[list[str]] = [["google.com"], ["WWW.example.com."], ["github.com"], ["GET /"], []]
    case = {"ids": {"a": pod}, "policies": [document], "flows": [["a", "a", "UDP", 53, *rest] for rest in asked]}
    answer = evaluate(case)
    words = ("allowed", "allowed", "denied", "denied", "allowed")
    assert answer == {"errors": [], "verdicts": [[word, "allowed"] for word in words]}


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a b", "a" * 254, "*.a.io", "GET x"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no DNS name"):
        parse_name(text)


def test_what_is_enforced_in_place_of_a_policy_that_the_engine_fails_on_asks_no_proxy(engine: Engine) -> None:
    rules = [{"toEndpoints": TO_SERVER, "toPorts": _ports(GOOGLE)}]
    denied = [{"toEndpoints": TO_SERVER, "toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}]
    engine.set_policy(closed(policy(engine, "failed", app="client", egress=rules, egressDeny=denied)))
    assert engine.context.proxy_ports is not None
    for number, protocol in ((53, UDP), (53, TCP), (80, TCP)):
        assert not engine.endpoint_policy(CLIENT).verdict(Direction.EGRESS, SERVER, protocol, number).allowed
    assert engine.context.proxy_ports.listener(FIRST_PORT) is None
