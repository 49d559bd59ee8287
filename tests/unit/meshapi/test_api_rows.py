# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from meshapi.agent import AgentStatus, decode_agent
from meshapi.apiserver import ApiserverStatus, decode_apiserver
from meshapi.peer import PeerState, RemoteCluster
from meshapi.row import encode


def test_the_status_schema_has_hyphens_ignores_what_it_does_not_know_and_comes_back() -> None:
    agent = AgentStatus(
        node="n1",
        cluster="koornacht",
        cluster_id=1,
        peers=[RemoteCluster(name="tion", state=PeerState.READY, age_s=1.5)],
    )
    data = encode(agent)
    assert b'"cluster-id":1' in data
    assert b'"num-shared-services":0' in data
    assert b'"age":1.5' in data
    assert decode_agent(data) == agent
    assert decode_agent(data[:-1] + b',"future":1}') == agent
    publisher = ApiserverStatus(cluster="koornacht", agents=[agent], published={"nodes": 3})
    assert decode_apiserver(encode(publisher)) == publisher
