# SPDX-License-Identifier: Apache-2.0
"""What a node's nft table says for which Services; that packets obey it is tested with packets."""

from __future__ import annotations

from lab.devkube.api.objects import Obj
from lab.kubeproxy.announce import announcers
from lab.kubeproxy.choices import ProxyRule, proxy_rules
from lab.kubeproxy.ruleset import render
from lab.topology import KOORNACHT

NODE = KOORNACHT.nodes[1]


def service(**spec: object) -> Obj:
    return {
        "metadata": {"namespace": "d", "name": "web"},
        "spec": {"clusterIP": "172.20.1.20", "ports": [{"port": 80}], **spec},
    }


def slice_of(*endpoints: tuple[str, str, dict[str, bool]]) -> Obj:
    return {
        "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "nodeName": n, "conditions": c} for a, n, c in endpoints],
    }


READY = {"ready": True, "serving": True, "terminating": False}
ENDING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}


HERE = ("10.1.1.2", NODE.name, READY)
THERE = ("10.1.2.2", "koornacht-worker2", READY)
BALANCED = {"loadBalancer": {"ingress": [{"ip": "172.19.1.1"}, {"ip": "172.19.1.2", "ipMode": "Proxy"}]}}


def rules(*slices: Obj, **spec: object) -> list[ProxyRule]:
    return proxy_rules([service(**spec)], slices, NODE, KOORNACHT)


def backends(*endpoints: tuple[str, str, dict[str, bool]]) -> tuple[tuple[str, int], ...]:
    return rules(slice_of(*endpoints))[0].backends


def balanced(*endpoints: tuple[str, str, dict[str, bool]], **spec: object) -> list[ProxyRule]:
    """The rules of a Service of type LoadBalancer, but for its cluster address."""
    found = {**service(type="LoadBalancer", **spec), "status": BALANCED}
    return proxy_rules([found], [slice_of(*endpoints)], NODE, KOORNACHT)[1:]


def test_only_ready_endpoints_are_used_while_there_are_any() -> None:
    found = backends(("10.1.1.2", "a", READY), ("10.1.1.3", "a", ENDING), ("10.1.1.4", "a", UNREADY))
    assert found == (("10.1.1.2", 8080),)


def test_ending_endpoints_that_still_serve_are_better_than_none() -> None:
    assert backends(("10.1.1.3", "a", ENDING), ("10.1.1.4", "a", UNREADY)) == (("10.1.1.3", 8080),)
    assert backends(("10.1.1.4", "a", UNREADY)) == ()


def test_headless_services_need_no_rules() -> None:
    assert rules(slice_of(("10.1.1.2", "a", READY)), clusterIP="None") == []


def test_a_port_without_backends_is_refused_and_not_translated() -> None:
    text = render(rules(), KOORNACHT, NODE)
    assert "elements = { 172.20.1.20 . tcp . 80 };" in text
    assert "dnat" not in text


def test_internal_traffic_policy_local_leads_to_backends_of_the_node() -> None:
    (rule,) = rules(slice_of(HERE, THERE), internalTrafficPolicy="Local")
    assert rule.backends == (("10.1.1.2", 8080),)


def test_node_ports_masquerade_unless_the_client_is_to_be_kept() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    usual = rules(slice_of(HERE, THERE), type="NodePort", ports=ports)[1:]
    assert [(rule.port, len(rule.backends), rule.masquerade) for rule in usual] == [(30080, 2, True)]
    inside, outside = rules(slice_of(HERE, THERE), type="NodePort", ports=ports, externalTrafficPolicy="Local")[1:]
    assert (inside.sources, len(inside.backends)) == ((KOORNACHT.pod_cidr, NODE.address), 2)
    assert (outside.sources, outside.backends, outside.masquerade) == ((), (("10.1.1.2", 8080),), False)


def test_a_balancer_address_of_mode_vip_leads_to_backends() -> None:
    (rule,) = balanced(HERE, THERE)
    assert (rule.address, rule.port, len(rule.backends), rule.masquerade) == ("172.19.1.1", 80, 2, True)


def test_external_traffic_policy_local_drops_what_has_no_backend_here_and_leaves_pods_alone() -> None:
    inside, outside = balanced(THERE, externalTrafficPolicy="Local")
    assert (inside.sources, len(inside.backends)) == ((KOORNACHT.pod_cidr, NODE.address), 1)
    assert (outside.backends, outside.is_silent) == ((), True)
    text = render([inside, outside], KOORNACHT, NODE)
    assert text.index("ip saddr { 10.1.0.0/16") < text.index("    ip daddr 172.19.1.1 tcp dport 80 drop")


def test_source_ranges_let_in_nobody_else_and_an_odd_one_lets_in_nobody() -> None:
    ranges = ["198.51.100.0/24", "010.0.0.0/8", "all"]
    allowed, rest = balanced(HERE, loadBalancerSourceRanges=ranges)
    assert allowed.allowed == ("198.51.100.0/24", NODE.address)
    assert (rest.allowed, rest.backends, rest.is_silent) == ((), (), True)


def test_the_node_that_answers_for_a_balancer_address_has_a_backend_where_it_must() -> None:
    usual = {**service(type="LoadBalancer"), "status": BALANCED}
    local = {**service(type="LoadBalancer", externalTrafficPolicy="Local"), "status": BALANCED}
    assert announcers([usual], [slice_of(HERE)], KOORNACHT) == {"172.19.1.1": KOORNACHT.nodes[-1].address}
    assert announcers([local], [slice_of(HERE)], KOORNACHT) == {"172.19.1.1": NODE.address}
    assert announcers([service()], [slice_of(HERE)], KOORNACHT) == {}


def test_equal_services_give_equal_text_in_any_order() -> None:
    other = {"metadata": {"namespace": "d", "name": "b"}, "spec": {"clusterIP": "172.20.1.21", "ports": [{"port": 1}]}}
    found = slice_of(("10.1.1.2", "a", READY), ("10.1.2.2", "b", READY))
    turned = {**found, "endpoints": found["endpoints"][::-1]}
    first = render(proxy_rules([service(), other], [found], NODE, KOORNACHT), KOORNACHT, NODE)
    assert first == render(proxy_rules([other, service()], [turned], NODE, KOORNACHT), KOORNACHT, NODE)


def test_an_address_that_nft_would_refuse_costs_itself_alone() -> None:
    found = backends(("010.1.1.3", "a", READY), ("fd00::3", "a", READY), ("odd", "a", READY), ("10.1.1.4", "a", READY))
    assert found == (("10.1.1.4", 8080),)
