# SPDX-License-Identifier: Apache-2.0
"""Services of many ports: each port gets the same backends as by looking at all of them, at the cost of what it gets."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.convert import strip_service
from agent.loadbalancer.port_index import MANY_PORTS, MOST, PortIndexes
from agent.loadbalancer.ports import fitting
from agent.loadbalancer.slot_room import MOST_SLOTS
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.settings import AgentSettings
from agent.tables import AgentDB, Backend, BackendSet, ServicePort
from kube.reflector import Upsert
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
BIG = ServiceName("t", "big")
NAMES = st.sampled_from([(), ("",), ("a",), ("b",), ("a", "b"), ("", "a")])
PROTOCOLS = st.sampled_from(["TCP", "UDP"])
BACKENDS = st.lists(st.tuples(st.integers(1, 9), PROTOCOLS, NAMES), max_size=12)


def set_of(backends: list[tuple[int, str, tuple[str, ...]]]) -> BackendSet:
    found = tuple(Backend(f"10.1.0.{number}", 80, protocol, names) for number, protocol, names in backends)
    has_unnamed = any("" in names for _, _, names in backends)
    return BackendSet(BIG, SOUTH, ClusterId(2), found, has_unnamed=has_unnamed)


@given(BACKENDS, st.sampled_from(["", "a", "b", "c"]), PROTOCOLS)
def test_by_the_index_a_port_gets_what_it_gets_without(
    backends: list[tuple[int, str, tuple[str, ...]]], name: str, protocol: str
) -> None:
    row, port = set_of(backends), ServicePort(name, 80, protocol)
    assert list(PortIndexes().fitting(row, port, MANY_PORTS)) == list(fitting(row, port))


def test_another_set_of_the_same_cluster_is_not_taken_for_the_former_one() -> None:
    indexes, port = PortIndexes(), ServicePort("a", 80, "TCP")
    for number in range(1, MOST + 3):
        row = set_of([(number, "TCP", ("a",))])
        assert indexes.fitting(row, port, MANY_PORTS) == [row.backends[0]]


def many_ports(count: int) -> tuple[AgentDB, LoadBalancerWriter]:
    """A global service of so many ports, whose names are p1, p2, ..."""
    db = AgentDB(NORTH, ClusterId(1))
    writer = LoadBalancerWriter(db)
    service = strip_service(
        {
            "metadata": {"name": "big", "namespace": "t", "annotations": {"service.cilium.io/global": "true"}},
            "spec": {
                "clusterIP": "172.20.1.9",
                "ports": [{"name": f"p{number}", "port": number, "protocol": "TCP"} for number in range(1, count + 1)],
            },
        }
    )
    KubernetesSource(db, writer, ManualClock()).take_services([Upsert(str(BIG), service)], lambda: None)
    return db, writer


def problems_of(db: AgentDB) -> tuple[str, ...]:
    return tuple(problem for row in db.service_problems.rows() for problem in row.problems)


def test_a_service_of_very_many_ports_and_backends_is_chosen_at_once() -> None:
    """A tenant's object of 200 kB, and one slice of hundred ports: it took minutes of every agent's time."""
    db, writer = many_ports(AgentSettings.service_frontends_max + 1000)
    began_s = time.process_time()
    for cluster_id, cluster in ((ClusterId(1), NORTH), (ClusterId(2), SOUTH)):
        backends = [
            Backend(f"10.{cluster_id}.0.{number}", port, "TCP", (f"p{port}",))
            for number in range(100)
            for port in range(1, 101)
        ]
        with db.write():
            writer.set_backends(BIG, cluster, cluster_id, backends, 0.0)
    assert time.process_time() - began_s < 5.0
    assert len(db.frontends.rows()) == AgentSettings.service_frontends_max
    assert len(problems_of(db)) <= 1 + 16
    assert max(map(len, problems_of(db))) < 400


def test_backends_without_a_port_name_are_not_multiplied_by_very_many_ports() -> None:
    """Each of them serves every port: ten slices and one Service meant 41 million slots, and gigabytes in every agent."""
    db, writer = many_ports(400)
    backends = [Backend(f"10.1.{number >> 8}.{number & 255}", 80, "TCP", ("",)) for number in range(2000)]
    with db.write():
        writer.set_backends(BIG, NORTH, ClusterId(1), backends, 0.0)
    kept = MOST_SLOTS // len(backends)
    assert sorted(row.key.port for row in db.frontends.rows()) == list(range(1, kept + 1))
    assert problems_of(db) == (
        f"ports times backends are more than {MOST_SLOTS}: port p{kept + 1}/TCP and what follows is left out",
    )
    with db.write():
        writer.set_backends(BIG, NORTH, ClusterId(1), backends[:100], 0.0)
    assert (len(db.frontends.rows()), problems_of(db)) == (400, ())
