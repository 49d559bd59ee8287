# SPDX-License-Identifier: Apache-2.0
"""What an operator reads of lost nodes and of faults of the policy engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from agent.mesh.feature import MeshFeature
from agent.mesh.rows import lost_node_problems
from agent.policy.feature import PolicyFeature
from agent.policy.rows import engine_faults
from agent.tables import AgentDB
from agent.unwell import LostNode
from meshkit.clock import ManualClock
from meshkit.health import Health, HealthLevel
from meshmodel.names import ClusterId, ClusterName


def test_each_lost_node_is_named_with_its_cluster_and_the_reason() -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    with db.write():
        db.lost_nodes.put(LostNode("172.18.0.7", ClusterName("south"), "no answer"))
        db.lost_nodes.put(LostNode("172.18.0.6", ClusterName("south"), "only small packets pass"))
    assert lost_node_problems(db) == [
        "peer south: node 172.18.0.6 gets no new connections from this node: only small packets pass",
        "peer south: node 172.18.0.7 gets no new connections from this node: no answer",
    ]


def test_each_fault_names_what_is_kept_closed() -> None:
    assert engine_faults({"cnp/a/b": "kept closed: x", "identity 7": "kept closed: y"}) == [
        "cnp/a/b: kept closed: x",
        "identity 7: kept closed: y",
    ]


def test_a_lost_node_degrades_the_agent_until_it_is_back_and_never_makes_it_unready() -> None:
    db, health = AgentDB(ClusterName("north"), ClusterId(1)), Health()
    parts = SimpleNamespace(_core=SimpleNamespace(db=db), runner=SimpleNamespace(states=list, members={}))
    parts.own_node = SimpleNamespace(problem="")
    parts._core.clock = ManualClock()
    feature = cast("Any", parts)
    with db.write():
        db.lost_nodes.put(LostNode("172.18.0.7", ClusterName("south"), "no answer"))
    MeshFeature.check_health(feature, health)
    part = health.snapshot()["nodes of peers"]
    assert part.level is HealthLevel.DEGRADED
    assert part.message.startswith("1 not reached; peer south: node 172.18.0.7 ")
    assert health.ready()
    with db.write():
        db.lost_nodes.delete("172.18.0.7")
    MeshFeature.check_health(feature, health)
    assert health.snapshot()["nodes of peers"].level is HealthLevel.OK


def test_a_fault_of_the_policy_engine_degrades_the_agent_until_it_is_gone() -> None:
    health, faults = Health(), {"cnp/a/b": "kept closed: x"}
    feature = cast(
        "Any",
        SimpleNamespace(
            compiler=SimpleNamespace(faults=faults),
            target=SimpleNamespace(failures={}),
            _node_failure="",
            _pin_failure="",
        ),
    )
    PolicyFeature.check_health(feature, health)
    assert health.snapshot()["policy engine"][:2] == (HealthLevel.DEGRADED, "1 kept closed; cnp/a/b: kept closed: x")
    assert health.ready()
    faults.clear()
    PolicyFeature.check_health(feature, health)
    assert health.snapshot()["policy engine"].level is HealthLevel.OK
