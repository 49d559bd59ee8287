# SPDX-License-Identifier: Apache-2.0
"""What a node's nft table says for which Services; that packets obey it is tested with packets."""

from __future__ import annotations

from lab.devkube.api.objects import Obj
from lab.kubeproxy import frontends, render
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


def backends(*endpoints: tuple[str, str, dict[str, bool]]) -> tuple[tuple[str, int], ...]:
    return frontends([service()], [slice_of(*endpoints)], NODE.name)[0].backends


def test_only_ready_endpoints_are_used_while_there_are_any() -> None:
    found = backends(("10.1.1.2", "a", READY), ("10.1.1.3", "a", ENDING), ("10.1.1.4", "a", UNREADY))
    assert found == (("10.1.1.2", 8080),)


def test_ending_endpoints_that_still_serve_are_better_than_none() -> None:
    assert backends(("10.1.1.3", "a", ENDING), ("10.1.1.4", "a", UNREADY)) == (("10.1.1.3", 8080),)
    assert backends(("10.1.1.4", "a", UNREADY)) == ()


def test_headless_services_need_no_rules() -> None:
    assert frontends([service(clusterIP="None")], [slice_of(("10.1.1.2", "a", READY))], NODE.name) == []


def test_a_port_without_backends_is_refused_and_not_translated() -> None:
    text = render(frontends([service()], [], NODE.name), KOORNACHT, NODE)
    assert "elements = { 172.20.1.20 . tcp . 80 };" in text
    assert "dnat" not in text


def test_node_ports_masquerade_unless_the_client_is_to_be_kept() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    here, there = ("10.1.1.2", NODE.name, READY), ("10.1.2.2", "koornacht-worker2", READY)
    usual = render(
        frontends([service(type="NodePort", ports=ports)], [slice_of(here, there)], NODE.name), KOORNACHT, NODE
    )
    assert "meta mark set meta mark or 0x4000" in usual
    local = service(type="NodePort", ports=ports, externalTrafficPolicy="Local")
    kept = render(frontends([local], [slice_of(here, there)], NODE.name), KOORNACHT, NODE)
    assert "meta mark set" not in kept
    node_chain = kept.split("chain node_")[1].split("}")[0]
    assert "10.1.1.2" in node_chain
    assert "10.1.2.2" not in node_chain


def test_equal_services_give_equal_text_in_any_order() -> None:
    other = {"metadata": {"namespace": "d", "name": "b"}, "spec": {"clusterIP": "172.20.1.21", "ports": [{"port": 1}]}}
    found = slice_of(("10.1.1.2", "a", READY), ("10.1.2.2", "b", READY))
    turned = {**found, "endpoints": found["endpoints"][::-1]}
    first = render(frontends([service(), other], [found], NODE.name), KOORNACHT, NODE)
    assert first == render(frontends([other, service()], [turned], NODE.name), KOORNACHT, NODE)


def test_an_address_that_nft_would_refuse_costs_itself_alone() -> None:
    found = backends(("010.1.1.3", "a", READY), ("fd00::3", "a", READY), ("odd", "a", READY), ("10.1.1.4", "a", READY))
    assert found == (("10.1.1.4", 8080),)
