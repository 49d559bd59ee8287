# SPDX-License-Identifier: Apache-2.0
"""Server names of TLS: which names a pattern is about, how rules of one port come together, and what remains closed."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy import Direction, Engine
from meshpolicy.asked import lets_through, parse_asked, rules_text
from meshpolicy.evaluate import evaluate
from meshpolicy.proxy_ports import Listener, ProxyPorts
from meshpolicy.rebuild import differences
from meshpolicy.server_name import EVERY_CONNECTION, server_name
from tests.unit.meshpolicy.policy_world import CLIENT, SERVER, build, policy, port

POD = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=north"]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("cilium.io", ["cilium.io"], ["www.cilium.io", "ciliumxio", ""]),
        ("CILIUM.io.", ["cilium.io"], []),
        ("*.cilium.io", ["www.cilium.io", "blog.cilium.io"], ["cilium.io", "foo.bar.cilium.io", "kubernetes.io"]),
        ("*cilium.io", ["cilium.io", "sub-cilium.io", "subcilium.io"], ["www.cilium.io", "blog.cilium.io"]),
        ("sub*.cilium.io", ["sub.cilium.io", "subdomain.cilium.io"], ["blog-sub.cilium.io", "a.sub.cilium.io"]),
        ("**.cilium.io", ["www.cilium.io", "test.app.cilium.io"], ["cilium.io", ".cilium.io"]),
        ("api.**.io", ["api.a.io", "api.a.b.io"], ["api.io", "api..io"]),
        ("*", ["io", "a.b.c", "a_b"], ["", "a..b", "a.b."]),
        ("**", ["io", "a.b.c"], [""]),
    ],
)
def test_a_pattern_is_about_whole_names(pattern: str, yes: list[str], no: list[str]) -> None:
    found = server_name(pattern)
    assert [name for name in (*yes, *no) if found.matches(name)] == yes


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", ".a", "***.io", "a**.io", "**a.io", "a b", "a/b", "[a].io", "é.io", "a" * 256]
)
def test_what_no_server_is_called_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a name nor a pattern"):
        server_name(text)


def _names(*names: str, number: str = "443", protocol: str = "TCP") -> list[Any]:
    return port(number, protocol, serverNames=list(names))


def _allowed(engine: Engine, where: int = 443, protocol: int = 6) -> str | None:
    """What the proxy allows the client to the server; None: the connection goes nowhere near it."""
    verdict = engine.endpoint_policy(SERVER).verdict(Direction.INGRESS, CLIENT, protocol, where)
    if verdict.entry is None or not verdict.entry.proxy_port:
        return None
    assert engine.context.proxy_ports is not None
    listener = engine.context.proxy_ports.listener(verdict.entry.proxy_port)
    assert listener is not None
    return rules_text(listener)


@pytest.fixture
def engine() -> Engine:
    return build(proxy_ports=ProxyPorts())


def test_names_of_one_port_are_united_and_a_plain_rule_allows_every_connection(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"toPorts": _names("a.io")}]))
    engine.set_policy(policy(engine, "b", ingress=[{"toPorts": _names("*.b.io")}]))
    assert _allowed(engine) == "server name *.b.io; server name a.io"
    engine.set_policy(policy(engine, "c", ingress=[{"toPorts": port("443")}]))
    assert _allowed(engine) == "every connection"
    assert differences(engine) == ()


def test_requests_and_names_of_one_port_are_allowed_beside_each_other(engine: Engine) -> None:
    http = port("443", rules={"http": [{"method": "GET"}]})
    engine.set_policy(policy(engine, "a", ingress=[{"toPorts": _names("a.io")}]))
    engine.set_policy(policy(engine, "b", ingress=[{"toPorts": http}]))
    assert _allowed(engine) == "method GET; server name a.io"
    engine.set_policy(policy(engine, "c", ingress=[{"toPorts": port("443")}]))
    assert _allowed(engine) == "every connection; every request"


def test_names_are_looked_for_in_tcp_only_and_that_is_said(engine: Engine) -> None:
    made = policy(engine, ingress=[{"toPorts": _names("a.io", protocol="ANY")}])
    engine.set_policy(made)
    assert _allowed(engine) == "server name a.io"
    assert not engine.endpoint_policy(SERVER).verdict(Direction.INGRESS, CLIENT, 17, 443).allowed
    assert made.problems == ()
    assert "443/UDP, 443/SCTP stays denied here" in made.warnings[0]


@pytest.mark.parametrize(
    ("servers", "rules", "asked", "allowed"),
    [
        (("a.io",), (), "tls://A.io.", True),
        (("a.io",), (), "tls://b.io", False),
        (("a.io",), (), "GET /x", False),
        (("a.io",), (), "a.io", False),
        (None, (), "tls://a.io", False),
    ],
)
def test_what_is_asked_is_judged(servers: Any, rules: Any, asked: str, *, allowed: bool) -> None:
    names = None if servers is None else frozenset(map(server_name, servers))
    assert lets_through(Listener(Direction.EGRESS, frozenset(rules), servers=names), parse_asked(asked)) is allowed


def test_every_connection_is_any_request_too() -> None:
    listener = Listener(Direction.EGRESS, servers=frozenset((EVERY_CONNECTION,)))
    assert lets_through(listener, parse_asked("tls://a.io"))
    assert lets_through(listener, parse_asked("GET /x"))


def test_a_case_may_ask_for_a_server() -> None:
    rule = {"toEntities": ["world"], "toPorts": _names("*.example")}
    spec = {"endpointSelector": {}, "egress": [rule]}
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    case = {
        "cluster": "north", "ids": {"web": POD}, "policies": [document],
        "flows": [["web", "world", "TCP", 443, asked] for asked in ("tls://a.example", "tls://example", "GET /")],
    }  # fmt: skip
    found = evaluate(case)
    assert found == {"errors": [], "verdicts": [["allowed", "allowed"], ["denied", "allowed"], ["denied", "allowed"]]}
