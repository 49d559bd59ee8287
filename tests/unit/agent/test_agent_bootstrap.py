# SPDX-License-Identifier: Apache-2.0
"""What the agent learns before it starts, what people see when they ask it, and what its command says of broken files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.bootstrap import MissingFactError, learn
from agent.cli import render
from agent.settings import AgentSettings
from kube.errors import Forbidden
from kvstore.clientconfig import parse_client_config
from meshapi.agent import LoadBalancerMaps, MapEntry
from meshkit.answer_form import AnswerForm
from meshkit.clock import ManualClock
from meshpeer.connection import own_store_config, service_of
from meshpeer.troubleshoot import Limits, troubleshoot


class Kubernetes:
    """The two requests that the start makes."""

    def __init__(self, config: dict[str, str]) -> None:
        self.config = config
        self.nodes: list[dict[str, Any]] = [
            {
                "metadata": {"name": name},
                "spec": {"podCIDRs": [cidr]},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
            }
            for name, ip, cidr in (("n1", "172.18.0.2", "10.1.0.0/24"), ("n2", "172.18.0.3", "10.1.1.0/24"))
        ]

    def get(self, resource: object, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        return {"data": self.config} if name == "cilium-config" else None

    def list(self, resource: object) -> list[dict[str, Any]]:
        return self.nodes


async def test_the_config_map_fills_in_what_the_settings_leave_open() -> None:
    client = Kubernetes({"cluster-name": "north", "cluster-id": "7", "policy-default-local-cluster": "false"})
    facts = await learn(AgentSettings(node_name="n1"), client, ManualClock())  # type: ignore[arg-type]
    assert (facts.cluster, facts.cluster_id, facts.maximum, facts.node_ip) == ("north", 7, 255, "172.18.0.2")
    assert facts.pod_cidrs == ("10.1.0.0/24",)
    assert not facts.default_local_cluster
    assert [n.name for n in facts.own_nodes] == ["n1", "n2"]


async def test_nodes_are_read_as_everywhere_else() -> None:
    """An old server's `podCIDR`, host bits in a network, an odd address before the right one, an object without a name."""
    client = Kubernetes({"cluster-name": "north", "cluster-id": "7"})
    status = {
        "addresses": [
            {"type": "InternalIP", "address": "fd00::2"},
            {"type": "InternalIP", "address": "172.018.0.2"},
            {"type": "InternalIP", "address": "172.18.0.2"},
        ]
    }
    client.nodes = [
        {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.7/24"}, "status": status},
        {"metadata": {}},
    ]
    facts = await learn(AgentSettings(node_name="n1"), client, ManualClock())  # type: ignore[arg-type]
    assert (facts.node_ip, facts.pod_cidrs) == ("172.18.0.2", ("10.1.0.0/24",))
    assert [n.name for n in facts.own_nodes] == ["n1"]


async def test_a_flag_wins_over_the_config_map_and_nothing_at_all_is_an_error() -> None:
    client = Kubernetes({"cluster-name": "north", "cluster-id": "7"})
    settings = AgentSettings(node_name="n1", cluster_name="south", cluster_id=9)
    facts = await learn(settings, client, ManualClock())  # type: ignore[arg-type]
    assert (facts.cluster, facts.cluster_id, facts.default_local_cluster) == ("south", 9, True)
    with pytest.raises(MissingFactError, match="cluster name or id"):
        await learn(AgentSettings(node_name="n1"), Kubernetes({}), ManualClock())  # type: ignore[arg-type]
    with pytest.raises(MissingFactError, match="address of this node"):
        await learn(AgentSettings(cluster_name="a", cluster_id=1), None, ManualClock())


async def test_an_account_without_rights_waits_until_it_has_them() -> None:
    """A server that has just started refuses everybody until it has read its roles."""
    client, refused = Kubernetes({"cluster-name": "north", "cluster-id": "7"}), [Forbidden("GET nodes", 403)] * 3
    listed, clock = client.list, ManualClock()

    def refuse(resource: object) -> list[dict[str, Any]]:
        if refused:
            raise refused.pop()
        return listed(resource)

    client.list = refuse  # type: ignore[method-assign]
    learning = asyncio.ensure_future(learn(AgentSettings(node_name="n1"), client, clock))  # type: ignore[arg-type]
    while not learning.done():
        await asyncio.sleep(0)
        if (due_s := clock.next_deadline) is not None:
            clock.advance(due_s - clock.monotonic())
    assert (learning.result().cluster, refused) == ("north", [])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.kube-system.svc", ("api", "kube-system")),
        ("api.kube-system.svc.cluster.local", ("api", "kube-system")),
        ("south.mesh.cilium.io", None),
        ("localhost", None),
    ],
)
def test_names_of_kubernetes_services_are_told_from_others(host: str, expected: tuple[str, str] | None) -> None:
    assert service_of(host) == expected


def test_the_own_store_has_the_form_of_a_peers_file(tmp_path: Path) -> None:
    config = parse_client_config(own_store_config("https://api.ns.svc:2379", tmp_path))
    assert (config.endpoints[0].host, config.cert_file) == ("api.ns.svc", str(tmp_path / "tls.crt"))
    assert not parse_client_config(own_store_config("http://127.0.0.1:1", tmp_path)).endpoints[0].is_tls


def test_a_broken_file_is_named_and_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "south").write_bytes(b"endpoints:\n- http://127.0.0.1:1\n")
    (tmp_path / "east").write_bytes(b"endpoints: 7\n")
    lines: list[str] = []
    assert troubleshoot(tmp_path, [], Limits(2.0, lambda _host: None), AnswerForm.TABLE, lines.append) == 4
    text = "".join(lines)
    assert "Found 2 cluster configurations" in text
    assert "127.0.0.1:1: " in text
    assert "endpoints is not a list" in text
    assert "cannot be read: " in text
    assert "cannot be read: \n" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0s"), (59, "59s"), (242, "4m2s"), (3600, "1h"), (273_600, "3d4h")]
)
def test_ages_are_short(seconds: float | None, text: str) -> None:
    assert render.age(seconds) == text


def test_a_slot_that_leads_nowhere_says_so() -> None:
    key = {"address": "10.0.0.1", "port": 80, "protocol": 6}
    entries = [
        MapEntry({**key, "slot": 0}, {"backend_id": 0, "service_id": 5, "count": 2, "flags": 0}),
        MapEntry({**key, "slot": 1}, {"backend_id": 1, "service_id": 5, "count": 0, "flags": 0}),
        MapEntry({**key, "slot": 2}, {"backend_id": 2, "service_id": 5, "count": 0, "flags": 0}),
    ]
    value = {"address": "10.2.0.9", "port": 90, "protocol": 6, "state": 0, "cluster_id": 2}
    text = render.load_balancer_maps(
        LoadBalancerMaps(services=entries, backends=[MapEntry({"id": 1}, value)]), {2: "south"}
    )
    assert text.splitlines() == [
        "SERVICE ADDRESS   BACKEND ADDRESS (REVNAT_ID) (SLOT)   CLUSTER",
        "10.0.0.1:80/TCP   0.0.0.0:0 (5) (0) count=2            -",
        "                  10.2.0.9:90 (5) (1)                  south",
        "                  backend 2 not found (5) (2)          -",
    ]
