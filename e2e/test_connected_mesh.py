# SPDX-License-Identifier: Apache-2.0
"""The lab every scenario starts from."""

from __future__ import annotations

import pytest

from e2e.mesh import CLUSTERS, Cluster, Mesh


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_connected_mesh_answers_from_both_clusters_and_says_it_is_well(mesh: Mesh, cluster: Cluster) -> None:
    found = mesh.answers(cluster, count=60)
    assert set(found) == {"Koornacht", "Tion"}
    assert sum(found.values()) == 60
    assert mesh.clustermesh("status", "--context", f"kind-{cluster}").returncode == 0
    name, node, address = mesh.pod(cluster, "x-wing")
    assert mesh.agent_rest(cluster, node, "/v1/status")["ready"] is True
    assert mesh.agent_rest(cluster, node, f"/v1/ip/{address}")["name"] == name
    assert mesh.apiserver_rest(cluster, "/v1/status")["cluster"] == cluster
