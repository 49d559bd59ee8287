# SPDX-License-Identifier: Apache-2.0
"""HTTP rules: which requests they allow, how those of several policies come together, and the ports of their listeners."""

from __future__ import annotations

from typing import Any

import pytest

from meshmodel.identity import NumericIdentity
from meshpolicy import Direction, Engine, PolicyKind, PolicyRef, parse_policy
from meshpolicy.evaluate import evaluate
from meshpolicy.http_rule import EVERY_REQUEST, HttpRequest, HttpRule, allows_request, parse_header, parse_request
from meshpolicy.proxied import MOST_ACTIONS
from meshpolicy.proxy_ports import FIRST_PORT, PORTS, Listener, ProxyPorts
from meshpolicy.rebuild import differences
from tests.unit.meshpolicy.policy_world import CLIENT, SERVER, STRANGER, build, policy, port

HOST = NumericIdentity(1)
GET = {"method": "GET", "path": "/public.*"}
FROM_CLIENT = [{"matchLabels": {"app": "client", "k8s:io.cilium.k8s.policy.cluster": "north"}}]


def _ref(name: str) -> PolicyRef:
    return PolicyRef(PolicyKind.CILIUM, "default", name)


def _http(*rules: dict[str, Any], number: str = "80") -> list[Any]:
    return port(number, rules={"http": list(rules)})


def _requests(engine: Engine, peer: int, where: int = 80) -> set[str] | None:
    """What the peer may ask of the server; None: it is no business of the proxy."""
    verdict = engine.endpoint_policy(SERVER).verdict(Direction.INGRESS, peer, 6, where)
    assert verdict.entry is not None
    if not verdict.allowed:
        return set()
    if not verdict.entry.proxy_port:
        return None
    assert engine.context.proxy_ports is not None
    listener = engine.context.proxy_ports.listener(verdict.entry.proxy_port)
    assert listener is not None
    assert listener.direction is Direction.INGRESS
    return {str(rule) for rule in listener.rules}


@pytest.fixture
def engine() -> Engine:
    return build(proxy_ports=ProxyPorts())


@pytest.mark.parametrize(
    ("rule", "request_line", "allowed"),
    [
        (HttpRule(), "POST /", True),
        (HttpRule("GET"), "GET /x", True),
        (HttpRule("GET"), "GETS /x", False),
        (HttpRule("GET|HEAD", "/public"), "HEAD /public", True),
        (HttpRule("GET", "/public"), "GET /public?x=1", False),
        (HttpRule("GET", "/public.*"), "GET /public?x=1", True),
        (HttpRule("GET", "/public"), "GET /private/public", False),
        (HttpRule(host="api[.]x"), "GET http://api.x/", True),
        (HttpRule(host="api.x"), "GET http://api.x.evil/", False),
    ],
)
def test_expressions_are_about_the_whole_of_a_part(rule: HttpRule, request_line: str, *, allowed: bool) -> None:
    assert allows_request([rule], parse_request(request_line)) is allowed


def test_headers_are_required_by_name_or_by_value() -> None:
    rule = HttpRule(headers=(parse_header("X-Team"), parse_header("X-Kind: a b")))
    assert rule.allows(HttpRequest("GET", "/", "", {"x-team": "", "x-kind": "a b"}))
    assert not rule.allows(HttpRequest("GET", "/", "", {"x-kind": "a b"}))
    assert not rule.allows(HttpRequest("GET", "/", "", {"x-team": "", "x-kind": "a"}))


@pytest.mark.parametrize("text", ["", "GET", "GET x", "GET /a b", "/x", "G1T /x"])
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no request"):
        parse_request(text)


def test_rules_of_one_peer_and_port_are_united(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": _http(GET)}]))
    engine.set_policy(
        policy(engine, "b", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": _http({"method": "PUT"})}])
    )
    assert _requests(engine, CLIENT) == {"method GET path /public.*", "method PUT"}
    engine.remove_policy(_ref("a"))
    assert _requests(engine, CLIENT) == {"method PUT"}
    assert differences(engine) == ()


def test_a_rule_without_restriction_allows_every_request(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": _http(GET)}]))
    engine.set_policy(policy(engine, "b", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": port("80")}]))
    assert _requests(engine, CLIENT) == {str(EVERY_REQUEST)}


def test_what_is_said_of_everybody_counts_for_each_peer_too(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"toPorts": _http(GET)}]))
    assert _requests(engine, CLIENT) == _requests(engine, STRANGER) == {"method GET path /public.*"}
    engine.set_policy(
        policy(engine, "b", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": _http({"method": "PUT"})}])
    )
    assert _requests(engine, CLIENT) == {"method GET path /public.*", "method PUT"}
    assert _requests(engine, STRANGER) == {"method GET path /public.*"}
    engine.set_policy(policy(engine, "c", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": port("80")}]))
    assert _requests(engine, CLIENT) == {str(EVERY_REQUEST)}
    assert differences(engine) == ()


def test_everybody_may_what_one_peer_is_restricted_in(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"fromEndpoints": FROM_CLIENT, "toPorts": _http(GET)}]))
    engine.set_policy(policy(engine, "b", ingress=[{"toPorts": port("80")}]))
    assert _requests(engine, CLIENT) == {str(EVERY_REQUEST)}
    assert _requests(engine, STRANGER) is None
    engine.remove_policy(_ref("b"))
    assert _requests(engine, CLIENT) == {"method GET path /public.*"}
    assert differences(engine) == ()


def test_a_restricted_port_beats_what_allows_every_port(engine: Engine) -> None:
    engine.set_policy(policy(engine, "a", ingress=[{"fromEndpoints": FROM_CLIENT}, {"toPorts": _http(GET)}]))
    assert _requests(engine, CLIENT) == {"method GET path /public.*"}
    assert _requests(engine, CLIENT, 81) is None


def test_denied_is_denied_and_the_node_gets_in(engine: Engine) -> None:
    engine.set_policy(
        policy(
            engine,
            "a",
            ingress=[{"toPorts": _http(GET)}],
            ingressDeny=[{"fromEndpoints": FROM_CLIENT, "toPorts": port("80")}],
        )
    )
    assert _requests(engine, CLIENT) == set()
    assert _requests(engine, HOST) is None


def test_without_a_proxy_such_a_port_is_denied_and_the_document_says_so() -> None:
    engine = build()
    made = policy(engine, ingress=[{"toPorts": _http(GET)}])
    engine.set_policy(made)
    assert _requests(engine, CLIENT) == set()
    assert "cannot be enforced yet" in made.problems[0]


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ({"name": "x", "value": "1", "secret": {"name": "s"}}, "a Secret"),
        ({"name": "x", "secret": {"name": "s"}, "mismatch": "REPLACE"}, "a Secret"),
        ({"name": ":path", "value": "/admin", "mismatch": "REPLACE"}, "REPLACE of :path"),
        ({"name": "Content-Length", "value": "1", "mismatch": "DELETE"}, "DELETE of content-length"),
        ({"name": "Host", "value": "a", "mismatch": "ADD"}, "ADD of host"),
        ({"name": "Y", "value": "1", "mismatch": "ADD"}, "a mismatch action for a header that the same rule requires"),
    ],
)
def test_what_changes_the_request_itself_or_takes_values_from_elsewhere_is_denied(
    engine: Engine, match: dict[str, Any], why: str
) -> None:
    made = policy(engine, ingress=[{"toPorts": _http({"headerMatches": [{"name": "y", "value": "2"}, match]})}])
    engine.set_policy(made)
    assert _requests(engine, CLIENT) == set()
    assert f"headerMatches ({why}) cannot be enforced yet" in made.problems[0]


def test_a_value_that_headers_must_match_is_required_as_one_that_is_listed(engine: Engine) -> None:
    http = {"method": "GET", "headers": ["X-Team"], "headerMatches": [{"name": "X-Key", "value": "a b"}]}
    made = policy(engine, ingress=[{"toPorts": _http(http)}])
    engine.set_policy(made)
    assert made.problems == ()
    wanted = frozenset((HttpRule("GET", headers=(("x-key", "a b"), ("x-team", None))),))
    assert {rule.http for rule in made.rules if rule.http is not None} == {wanted}


def test_a_header_without_value_is_required_and_one_with_an_action_is_not(engine: Engine) -> None:
    matches = [
        {"name": "X-Key"},
        {"name": "X-One", "value": "1", "mismatch": "ADD"},
        {"name": "Host", "mismatch": "LOG"},
    ]
    made = policy(engine, ingress=[{"toPorts": _http({"headerMatches": matches})}])
    engine.set_policy(made)
    assert made.problems == ()
    assert _requests(engine, CLIENT) == {"header x-key ADD header x-one: 1 LOG header host"}
    (rule,) = next(iter(made.rules[-1:])).http or ()
    assert rule.allows(HttpRequest("GET", "/", "", {"x-key": ""}))
    assert not rule.allows(HttpRequest("GET", "/", "", {"x-one": "1"}))


def test_actions_are_done_beside_a_rule_without_restriction_too(engine: Engine) -> None:
    add = {"name": "x", "value": "1", "mismatch": "ADD"}
    engine.set_policy(policy(engine, "a", ingress=[{"toPorts": _http(GET, {"path": "/a", "headerMatches": [add]})}]))
    engine.set_policy(policy(engine, "b", ingress=[{"toPorts": port("80")}]))
    assert _requests(engine, CLIENT) == {str(EVERY_REQUEST), "path /a ADD header x: 1"}
    assert differences(engine) == ()


@pytest.mark.parametrize(("count", "is_allowed"), [(MOST_ACTIONS, True), (MOST_ACTIONS + 1, False)])
def test_more_actions_than_a_shared_proxy_bears_are_denied(engine: Engine, count: int, *, is_allowed: bool) -> None:
    adds = [{"name": f"x-{number}", "value": "1", "mismatch": "ADD"} for number in range(count)]
    half = count // 2
    for name, part in (("a", adds[:half]), ("b", adds[half:])):
        engine.set_policy(
            policy(engine, name, ingress=[{"toPorts": _http({"path": f"/{name}", "headerMatches": part})}])
        )
    assert (_requests(engine, CLIENT) != set()) is is_allowed
    assert engine.context.proxy_ports is not None
    assert engine.context.proxy_ports.laden is not is_allowed


def test_equal_rules_share_a_port_that_outlives_a_restart() -> None:
    ports = ProxyPorts()
    one, two = (Listener(Direction.INGRESS, frozenset((HttpRule(m),))) for m in ("GET", "PUT"))
    assert (ports.port(one), ports.port(two), ports.port(one)) == (FIRST_PORT, FIRST_PORT + 1, FIRST_PORT)
    later = ProxyPorts()
    later.restore({FIRST_PORT: two})
    assert (later.port(one), later.port(two)) == (FIRST_PORT + 1, FIRST_PORT)
    assert later.listener(FIRST_PORT) == two


def test_rules_beyond_the_last_port_are_denied() -> None:
    ports = ProxyPorts()
    engine = build(proxy_ports=ports)
    for number in range(PORTS):
        ports.port(Listener(Direction.EGRESS, frozenset((HttpRule(f"M{number}"),))))
    engine.set_policy(policy(engine, ingress=[{"toPorts": _http(GET)}]))
    assert _requests(engine, CLIENT) == set()
    assert ports.exhausted


def test_a_case_may_say_what_is_asked() -> None:
    document = {
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {"endpointSelector": {}, "ingress": [{"toPorts": _http(GET)}]},
    }
    pod = ["k8s:io.kubernetes.pod.namespace=a", "k8s:io.cilium.k8s.policy.cluster=default"]
    requests: list[list[str]] = [["GET /public/x"], ["GET /secret"], ["POST /public"], []]
    case = {"ids": {"a": pod}, "policies": [document], "flows": [["a", "a", "TCP", 80, *rest] for rest in requests]}
    answer = evaluate(case)
    assert answer == {
        "errors": [],
        "verdicts": [["allowed", word] for word in ("allowed", "denied", "denied", "allowed")],
    }


def test_an_expression_that_re2_refuses_is_refused() -> None:
    engine = build()
    with pytest.raises(ValueError, match="RE2"):
        parse_policy(
            {
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "p"},
                "spec": {"endpointSelector": {}, "ingress": [{"toPorts": _http({"path": "/(?!x)"})}]},
            },
            engine.context,
        )
