# SPDX-License-Identifier: Apache-2.0
"""What an operator reads of lost nodes and of faults of the policy engine."""

from __future__ import annotations

from agent.mesh.rows import lost_node_problems
from agent.policy.rows import engine_faults
from agent.tables import AgentDB, LostNode
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
