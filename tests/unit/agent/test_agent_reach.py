# SPDX-License-Identifier: Apache-2.0
"""Who is led from a service's addresses to its backends beside pods: processes of the node, and who comes from outside."""

from __future__ import annotations

from typing import Any

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.layout import ServiceFlag, ServiceKey
from agent.datapath.memory import memory_maps
from agent.loadbalancer.comparison import compare_services
from agent.loadbalancer.convert import strip_service
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.loadbalancer.frontend import reach_of
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.rows import ServiceRows
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import Address, AgentDB, Backend, FrontendKey, Service
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NODE, OUTSIDERS = ServiceFlag.OF_NODE, ServiceFlag.OF_OUTSIDERS
PEER = ClusterName("south")


def service(name: str = "s", ip: str = "10.0.0.1", *, is_global: bool = True, port: int = 80, **spec: Any) -> Service:
    annotations = {"service.cilium.io/global": "true"} if is_global else {}
    ports = [{"name": "http", "port": port, "nodePort": 30080}]
    item = {
        "metadata": {"namespace": "t", "name": name, "annotations": annotations},
        "spec": {"clusterIP": ip, "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}},
    }
    found = strip_service(item)
    assert found is not None
    return found


def world(scope: str = "global") -> tuple[AgentDB, LoadBalancerWriter]:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    return db, LoadBalancerWriter(db, scope=scope)


def put(db: AgentDB, writer: LoadBalancerWriter, *services: Service) -> None:
    with db.write():
        for row in services:
            writer.set_service(row)


def reaches(db: AgentDB) -> dict[str, int]:
    return {str(row.key): row.reach for row in db.frontends.rows()}


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer", "ExternalIP", "NodePort"])
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize("scope", ["global", "all", "none"])
def test_a_service_reaches_nodes_if_the_setting_takes_it_and_outsiders_at_addresses_of_theirs(
    kind: str, policy: str, is_global: bool, scope: str
) -> None:
    is_taken = {"global": is_global, "all": True, "none": False}[scope]
    is_outside = kind != "ClusterIP" and policy == "Cluster"
    wanted = (NODE | OUTSIDERS if is_outside else NODE) if is_taken else 0
    assert (
        reach_of(service(is_global=is_global, externalTrafficPolicy=policy), Address("10.0.0.1", kind), scope) == wanted
    )


def test_a_node_port_of_a_global_service_is_a_frontend_on_every_address_of_the_node() -> None:
    db, writer = world()
    put(db, writer, service())
    both = int(NODE | OUTSIDERS)
    assert reaches(db) == {"10.0.0.1:80/TCP": NODE, "192.0.2.2:80/TCP": both, "0.0.0.0:30080/TCP": both}
    with db.write():
        writer.set_backends(ServiceName("t", "s"), PEER, ClusterId(2), [Backend("10.2.0.9", 9, "TCP", ("http",))], 0.0)
    assert {len(row.chosen) for row in db.frontends.rows()} == {1}


def test_what_is_said_of_a_frontend_names_its_clients() -> None:
    db, writer = world()
    put(db, writer, service(externalTrafficPolicy="Local"), service("own", "10.0.0.2", is_global=False))
    rows = ServiceRows(db, writer, LoadBalancerTarget(memory_maps(), lambda: 0.0), ManualClock())
    found = {row.frontend: row.clients for row in rows.services()}
    assert found["10.0.0.1:80/TCP"] == found["0.0.0.0:30080/TCP"] == ["pods", "node"]
    assert found["10.0.0.2:80/TCP"] == ["pods"]
    assert found["192.0.2.2:80/TCP"] == [], "another service has it"
    with db.write():
        writer.delete_service(ServiceName("t", "own"))
    put(db, writer, service())
    explained = rows.explain(ServiceName("t", "s"))
    assert explained is not None
    assert [row.clients for row in explained.frontends][1:] == [["pods", "node", "outsiders"]] * 2


def test_a_node_port_of_another_service_is_left_to_the_clusters_proxy() -> None:
    db, writer = world()
    put(db, writer, service(is_global=False))
    assert "0.0.0.0:30080/TCP" not in reaches(db)
    assert set(reaches(db).values()) == {0}


def test_a_node_port_goes_with_its_service_and_with_the_annotation() -> None:
    db, writer = world()
    put(db, writer, service())
    put(db, writer, service(is_global=False))
    assert db.frontends.get(FrontendKey("0.0.0.0", 30080, "TCP")) is None
    put(db, writer, service())
    with db.write():
        writer.delete_service(ServiceName("t", "s"))
    assert not list(db.frontends.rows())


def test_one_node_port_that_two_services_claim_for_a_moment_has_one_owner() -> None:
    db, writer = world()
    put(db, writer, service("a", "10.0.0.1"), service("b", "10.0.0.2", port=81))
    key = FrontendKey("0.0.0.0", 30080, "TCP")
    first = db.frontends.get(key)
    assert first is not None
    assert first.service.name == "a"
    with db.write():
        writer.delete_service(ServiceName("t", "a"))
    second = db.frontends.get(key)
    assert second is not None
    assert second.service.name == "b"


def test_a_balancer_node_port_without_internal_local_backends_still_has_the_others() -> None:
    """internalTrafficPolicy is about cluster addresses."""
    db, writer = world()
    put(db, writer, service(internalTrafficPolicy="Local"))
    with db.write():
        writer.set_backends(ServiceName("t", "s"), PEER, ClusterId(2), [Backend("10.2.0.9", 9, "TCP", ("http",))], 0.0)
    chosen = {row.kind: len(row.chosen) for row in db.frontends.rows()}
    assert chosen == {"ClusterIP": 0, "LoadBalancer": 1, "NodePort": 1}


def test_a_change_of_the_reach_alone_is_written_and_survives_a_restart() -> None:
    db, writer = world()
    maps = memory_maps()
    target = LoadBalancerTarget(maps, lambda: 0.0)
    head = ServiceKey("192.0.2.2", 80, 6)
    for policy, wanted in (("Cluster", NODE | OUTSIDERS), ("Local", NODE), ("Cluster", NODE | OUTSIDERS)):
        put(db, writer, service(externalTrafficPolicy=policy))
        assert not target.update(list(db.frontends.rows()))
        value = maps.services.get(head)
        assert value is not None
        assert value.flags == wanted
        assert compare_services(maps, tuple(db.frontends.rows()), {}) == []
    again = LoadBalancerTarget(maps, lambda: 0.0)
    again.restore()
    live = again.live(FrontendKey("192.0.2.2", 80, "TCP"))
    assert live is not None
    assert live.reach == NODE | OUTSIDERS


class HooklessHost(MemoryHost):
    def sockets_obstacle(self) -> str:
        return "no cgroup v2 hierarchy of the node is mounted at /x"


@pytest.mark.parametrize(("services", "is_told"), [("global", True), ("none", False)])
async def test_a_node_whose_sockets_cannot_be_led_says_so_unless_nobody_asked(services: str, is_told: bool) -> None:
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "192.168.50.11")
    settings = AgentSettings(local_etcd="none", services=services)
    core = await open_core(settings, facts, None, HooklessHost(), ManualClock())
    said = "processes of this node reach backends of this cluster only: no cgroup v2 hierarchy of the node is mounted at /x"
    assert (said in LoadBalancerFeature(core).problems()) is is_told
