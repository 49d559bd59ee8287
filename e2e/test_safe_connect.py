# SPDX-License-Identifier: Apache-2.0
"""connect and disconnect over a working link: what cannot work is refused, and the link goes on working."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from e2e.command import CHECK_FAILED, CONNECTION, FAILED, REFUSED, TIMEOUT, USAGE, assert_one_line, versions
from e2e.faults import processes_of, send
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh


@pytest.fixture
def working(mesh: Mesh) -> Iterator[Mesh]:
    """Two connected clusters, in which nothing was written."""
    before = {cluster: versions(mesh, cluster) for cluster in CLUSTERS}
    yield mesh
    assert {cluster: versions(mesh, cluster) for cluster in CLUSTERS} == before


@pytest.mark.parametrize("dry", ["", " --dry-run"], ids=["write", "dry"])
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--destination-context kind-koornacht", REFUSED, ("kind-koornacht", "current context", "itself")),
        ("--destination-context=", USAGE, ("--destination-context is empty",)),
        ("--context= --destination-context kind-tion", USAGE, ("--context is empty",)),
        ("--destination-context nope", USAGE, ("no context nope", "kind-tion")),
        ("--destination-context kind-tion --destination-endpoint 172.30.0.1:99999", REFUSED, ("99999", "65535")),
        ("--destination-context kind-tion --destination-endpoint nowhere.invalid:32379", CHECK_FAILED, ("nowhere",)),
        ("--destination-context kind-tion --destination-endpoint 127.0.0.1:1", CHECK_FAILED, ("refused", "tion")),
    ],
)
def test_a_connection_that_cannot_work_is_refused_in_one_line(
    working: Mesh, flags: str, code: int, words: tuple[str, ...], dry: str
) -> None:
    assert_one_line(working.clustermesh("connect", *f"{flags}{dry}".split(), check=False), code, *words)


def test_an_endpoint_that_is_another_clusters_is_refused(working: Mesh) -> None:
    own = working.get("koornacht", "nodes")["items"][0]["status"]["addresses"][0]["address"]
    done = working.clustermesh("connect", *CONNECTION, "--destination-endpoint", f"{own}:32379", check=False)
    assert_one_line(done, CHECK_FAILED, "tion", own, "nothing was changed")


@pytest.mark.parametrize("words", [("koornacht",), ("--destination-context", "kind-koornacht")])
def test_a_cluster_does_not_disconnect_from_itself(working: Mesh, words: tuple[str, ...]) -> None:
    assert_one_line(working.clustermesh("disconnect", *words, check=False), REFUSED, "itself")


def test_a_second_disconnect_says_that_there_is_nothing_to_disconnect(whole: Mesh) -> None:
    bundle = whole.get("koornacht", "configmap", "-n", SYSTEM, "clustermesh-ca-bundle")["data"]
    try:
        whole.clustermesh("disconnect", *CONNECTION)
        done = whole.clustermesh("disconnect", *CONNECTION, check=False)
        assert_one_line(done, REFUSED, "koornacht and tion are not connected", "nothing was changed")
        done = whole.clustermesh("disconnect", "tion", check=False)
        assert_one_line(done, REFUSED, "tion is not a peer of koornacht", "its peers: none")
    finally:
        whole.clustermesh("connect", *CONNECTION)
    assert whole.get("koornacht", "configmap", "-n", SYSTEM, "clustermesh-ca-bundle")["data"] == bundle


def test_a_link_that_gets_no_session_is_taken_back(whole: Mesh) -> None:
    whole.clustermesh("disconnect", *CONNECTION)
    try:
        before = {cluster: _peers(whole, cluster) for cluster in CLUSTERS}
        for cluster in CLUSTERS:
            whole.wait_until("no peer", partial(_has_no_peer, whole, cluster))
        pods = whole.pods("koornacht", "k8s-app=clustermesh-agent", SYSTEM)
        agents = [pid for pod in pods for pid in processes_of(whole, pod)]
        send(agents, signal.SIGSTOP)  # whatever the machine does meanwhile, no agent has read the peer
        try:
            done = whole.clustermesh("connect", *CONNECTION, "--wait-duration", "3", check=False)
        finally:
            send(agents, signal.SIGCONT)
        assert_one_line(done, TIMEOUT, "has no session with", "what was there before is restored")
        assert {cluster: _peers(whole, cluster) for cluster in CLUSTERS} == before
    finally:
        whole.clustermesh("connect", *CONNECTION)


@pytest.mark.runbook("authority-lost")
def test_a_lost_authority_is_not_replaced_without_a_word(whole: Mesh) -> None:
    secret = whole.get("tion", "secret", "-n", SYSTEM, "clustermesh-ca")
    kept = {name: secret["metadata"].get(name, {}) for name in ("name", "namespace", "labels")}
    whole.kubectl("tion", "delete", "secret", "-n", SYSTEM, "clustermesh-ca")
    try:
        for dry in ([], ["--dry-run"]):
            done = whole.clustermesh("enable", "--context", "kind-tion", *dry, check=False)
            assert_one_line(done, REFUSED, "clustermesh-ca is lost", "koornacht", "--new-ca")
        done = whole.clustermesh("connect", *CONNECTION, check=False)
        assert_one_line(done, FAILED, "clustermesh-ca is lost")
        assert whole.kubectl("tion", "get", "secret", "-n", SYSTEM, "clustermesh-ca", check=False).returncode != 0
    finally:
        whole.apply("tion", json.dumps({**secret, "metadata": kept}))
    whole.clustermesh("enable", "--context", "kind-tion", "--service-type", "NodePort")


def test_what_a_peer_may_own_is_written_as_it_announces_it(whole: Mesh) -> None:
    try:
        said = whole.clustermesh("connect", *CONNECTION, "--peer-networks", "auto").stdout
        assert "koornacht lets tion own 10.2.0.0/16" in said
        for cluster in CLUSTERS:
            whole.wait_for_answers(cluster, "Koornacht", "Tion")
    finally:
        whole.clustermesh("connect", *CONNECTION, "--peer-networks", "none")


def _has_no_peer(mesh: Mesh, cluster: Cluster) -> bool:
    return bool(mesh.apiserver_rest(cluster, "/v1/clusters") == [])


def _peers(mesh: Mesh, cluster: Cluster) -> list[dict[str, str]]:
    names = ("secret/cilium-clustermesh", "secret/cilium-kvstoremesh", "configmap/clustermesh-ca-bundle")
    return [mesh.get(cluster, "-n", SYSTEM, name).get("data") or {} for name in names]
