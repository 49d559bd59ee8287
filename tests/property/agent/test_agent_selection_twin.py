# SPDX-License-Identifier: Apache-2.0
"""Law: the short cut for sets without a sick or leaving backend chooses what the full decision chooses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.chooser import targets_of_candidates
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import NO_HINTS, Address, AgentDB, Backend, Hints, PeerHealth, Service, ServicePort
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition
from meshmodel.names import ClusterId, ClusterName, ServiceName

NAME = ServiceName("t", "s")
CLUSTERS = (("north", 1), ("south", 2), ("east", 3))
backend = st.builds(
    Backend,
    address=st.sampled_from([f"10.0.0.{n}" for n in range(6)]),
    port=st.sampled_from([80, 81]),
    protocol=st.sampled_from(["TCP", "UDP"]),
    names=st.sampled_from([("",), ("http",), ("", "http")]),
    condition=st.sampled_from([Condition.ACTIVE, Condition.ACTIVE, Condition.TERMINATING]),
    is_healthy=st.sampled_from([True, True, False]),
    node=st.sampled_from(["n1", "n2"]),
    hints=st.sampled_from([NO_HINTS, NO_HINTS, Hints(("a",)), Hints(("b",), ("n1",))]),
)
sets = st.lists(backend, max_size=5, unique_by=lambda b: b[:3])


@given(
    st.tuples(sets, sets, sets),
    st.sampled_from(list(Affinity)),
    st.booleans(),
    st.sampled_from(["", "http"]),
    st.booleans(),
    st.booleans(),
)
def test_the_short_cut_equals_the_decision(
    found: tuple[list[Backend], ...],
    affinity: Affinity,
    is_global: bool,
    port_name: str,
    is_withdrawn: bool,
    is_local: bool,
) -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1")
    writer = LoadBalancerWriter(db)
    port = ServicePort(port_name, 80, "TCP")
    addresses = (Address("10.9.9.9"), Address("192.0.2.9", "LoadBalancer"))
    service = Service(NAME, addresses, (port,), is_global=is_global, affinity=affinity, is_internal_local=is_local)
    with db.write():
        writer.set_zone("a")
        writer.set_service(service)
        for (name, number), backends in zip(CLUSTERS, found, strict=True):
            writer.set_peer(PeerHealth(ClusterName(name), ClusterId(number), is_withdrawn and name == "south"))
            writer.set_backends(NAME, ClusterName(name), ClusterId(number), backends, 0.0)
    plain = writer.chooser.plain_targets(service, port, [])
    chosen = {
        inside: targets_of_candidates(writer.chooser.choose(service, port, is_inside=inside)[0].chosen)
        for inside in (True, False)
    }
    assert plain is None or plain == chosen[False]
    assert {row.kind == "ClusterIP": row.chosen for row in db.frontends.rows()} == chosen
