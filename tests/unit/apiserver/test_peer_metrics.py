# SPDX-License-Identifier: Apache-2.0
"""What is measured of the mirror's sessions."""

from __future__ import annotations

from clustermesh_apiserver.status.peer_metrics import peer_metrics
from meshapi.peer import PeerState, RemoteCluster, Truncated


def samples(*peers: RemoteCluster) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in peer_metrics("p", "north", peers)
        for sample in family.samples
    }


def test_every_session_has_its_own_figures() -> None:
    ready = RemoteCluster(
        name="south", ready=True, state=PeerState.READY, num_nodes=3, age_s=2.5, records_rejected={"id": 4}
    )
    away = RemoteCluster(
        name="west",
        state=PeerState.DISCONNECTED,
        num_failures=7,
        truncated={"ip": Truncated(total=9, first=[], limit="x")},
    )
    found = samples(ready, away)
    assert found["p_remote_clusters", ""] == 2
    assert found["p_remote_cluster_readiness_status", "north,south"] == 1
    assert found["p_remote_cluster_readiness_status", "north,west"] == 0
    assert found["p_remote_cluster_failures", "north,west"] == 7
    assert found["p_remote_cluster_truncated_records", "north,west"] == 9
    assert found["p_remote_cluster_state", "north,west,disconnected"] == 1
    assert found["p_records_rejected_total", "south,id"] == 4


def test_a_peer_that_was_never_heard_of_has_no_age() -> None:
    found = samples(RemoteCluster(name="west"), RemoteCluster(name="south", age_s=0.0))
    assert ("p_remote_cluster_data_age_seconds", "north,west") not in found
    assert found["p_remote_cluster_data_age_seconds", "north,south"] == 0
