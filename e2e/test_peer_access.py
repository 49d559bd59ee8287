# SPDX-License-Identifier: Apache-2.0
"""What a peer can do with everything it has: read what was published for it, until it is disconnected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.intruder import FORGED, Intruder, intruder
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from e2e.peers import mirrored
from e2e.store import open_store

DENIED = "permission denied"
SERVICES = "cilium/state/services/v1/koornacht/"
ATTACKS = [
    ("put", "cilium/state/services/v1/koornacht/default/rebel-base", "{}"),
    ("put", "planted", "1"),
    ("del", "--prefix", "cilium/state/"),
    ("compact", "1"),
    ("lease", "grant", "60"),
    ("lease", "list"),
    ("member", "list"),
    ("endpoint", "status"),
    ("endpoint", "hashkv"),
    ("alarm", "list"),
    ("alarm", "disarm"),
    ("user", "list"),
    ("user", "add", "thief:thief"),
    ("role", "list"),
    ("auth", "disable"),
    ("defrag",),
    ("snapshot", "save", "/tmp/all"),
    ("lock", "planted"),
    ("elect", "planted", "me"),
    ("get", "--prefix", ""),
    ("get", "--from-key", "cilium/state/"),
    ("get", "--prefix", "cilium/"),
    ("get", "--prefix", "cilium/cache/"),
    ("get", "cilium/cluster-config/tion"),
    ("get", "cilium/cluster-config/koornacht", "cilium/z"),
    ("watch", "--prefix", ""),
    ("watch", "--prefix", "cilium/"),
    ("watch", "cilium/state/", "cilium/z"),
]


@pytest.fixture(scope="module")
def tion(mesh: Mesh) -> Iterator[Intruder]:
    mesh.expect_whole()
    with intruder(mesh) as found:
        yield found


def store_revision(mesh: Mesh) -> int:
    """The store's revision. Heartbeats move it on: it is compared where nothing else may have."""
    text = open_store(mesh, "koornacht").etcdctl("get", "cilium/cluster-config/koornacht", "-w", "fields").stdout
    found = re.search(r'"ModRevision" : (\d+)', text)
    assert found, text
    return int(found[1])


def without_pods(keys: Iterable[str]) -> list[str]:
    """The keys but those of addresses: a pod that a scenario before replaced may end meanwhile."""
    return sorted(key for key in keys if "/ip/v1/" not in key or "/synced/" in key)


def test_the_credential_of_a_peer_reads_and_watches_what_is_published(tion: Intruder) -> None:
    listed = tion.etcdctl("remote", "get", "--prefix", "--keys-only", SERVICES, check=True).stdout.split()
    assert listed == [f"{SERVICES}default/rebel-base"]
    assert '"id":1' in tion.etcdctl("remote", "get", "cilium/cluster-config/koornacht", check=True).stdout
    assert "koornacht-worker" in tion.etcdctl("remote", "get", "--prefix", "cilium/state/nodes/v1/", check=True).stdout
    watched = tion.etcdctl("remote", "watch", "--prefix", SERVICES, "--rev=1")
    assert f"PUT\n{SERVICES}default/rebel-base" in watched.stdout
    assert DENIED not in watched.stderr


def test_the_credential_of_a_peer_does_nothing_else(mesh: Mesh, tion: Intruder) -> None:
    store = open_store(mesh, "koornacht")
    before, config = without_pods(store.keys("")), store_revision(mesh)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda words: tion.etcdctl("remote", *words), ATTACKS))
    done.append(tion.etcdctl("remote", "txn", input="\nput planted 1\n\n\n\n"))
    got_through = [d for d in done if d.returncode == 0 or DENIED not in d.stdout + d.stderr]
    assert not got_through
    assert without_pods(store.keys("")) == before
    assert store_revision(mesh) == config
    assert store.etcdctl("get", "--rev", str(config), "--keys-only", "cilium/.heartbeat").returncode == 0, (
        "not compacted"
    )
    mesh.expect_whole()


@pytest.mark.parametrize("name", [*(f"forged-{name}" for name in FORGED), "stranger", ""])
def test_a_certificate_that_koornacht_did_not_agree_to_reads_nothing(tion: Intruder, name: str) -> None:
    """Signed by tion for koornacht's own users, signed by nobody we know, or none at all."""
    found = tion.etcdctl(name, "get", "cilium/cluster-config/koornacht")
    assert found.returncode != 0
    assert found.stdout == ""


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_etcd_itself_listens_on_loopback_only(mesh: Mesh, tion: Intruder, cluster: Cluster) -> None:
    (pod,) = mesh.pods(cluster, "k8s-app=clustermesh-apiserver", SYSTEM)
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    lines = mesh.kubectl(cluster, "exec", "-n", SYSTEM, name, "--", "ss", "-Hltnp").stdout.splitlines()
    etcd = [line.split()[3] for line in lines if '"etcd"' in line]
    assert len(etcd) == 2, lines
    assert {where.rpartition(":")[0] for where in etcd} == {"127.0.0.1"}
    assert sorted(line.split()[3].rpartition(":")[2] for line in lines if '"etcd"' not in line) == [
        "2379",
        "9880",
        "9881",
    ]
    refused = 7
    for where in etcd:
        found = tion.shell(f"curl -sk --max-time 2 https://{address}:{where.rpartition(':')[2]}/health; echo $?")
        assert found.stdout.strip() == str(refused)


def test_the_door_says_nothing_to_plain_http(tion: Intruder) -> None:
    for url in (
        "https://172.18.0.2:32379/version",
        "http://172.18.0.2:32379/metrics",
        "https://172.18.0.2:32379/health",
    ):
        found = tion.shell(f'curl -sk --max-time 2 {url}; echo " $?"')
        body, _, code = found.stdout.rpartition(" ")
        assert (body, code.strip() != "0") == ("", True), f"{url}: {found.stdout!r}"


def test_disconnect_cuts_open_streams_and_keeps_the_peer_out_until_connected_again(mesh: Mesh, tion: Intruder) -> None:
    watch = tion.start_etcdctl("remote", "watch", "--prefix", SERVICES, "--rev=1")
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline().strip() in ("PUT", "DELETE"), "the stream is open"
        mesh.clustermesh("disconnect", "tion", "--context", "kind-koornacht")
        said = watch.communicate(timeout=20)[0]
        assert watch.returncode not in (0, 124), f"the open stream was not cut: {said}"
        sessions = mesh.wait_until(
            "koornacht serves nobody of tion",
            lambda: [s["name"] for s in mesh.apiserver_rest("koornacht", "/v1/status")["sessions"]],
        )
        assert not [name for name in sessions if "tion" in name]
        assert tion.etcdctl("remote", "get", "cilium/cluster-config/koornacht").returncode != 0
        seen = mesh.wait_until(
            "tion says that koornacht is gone",
            lambda: (peer := mirrored(mesh, "tion", "koornacht"))["connected"] is False and peer,
        )
        assert seen["reason"]
        assert {
            p["name"] for p in mesh.agent_rest("koornacht", mesh.pod("koornacht", "x-wing")[1], "/v1/clusters")
        } == set()
        assert set(mesh.answers("koornacht")) == {"Koornacht"}
    finally:
        watch.kill()
        watch.communicate()
        mesh.clustermesh("connect", "--context", "kind-koornacht", "--destination-context", "kind-tion")
    assert tion.etcdctl("remote", "get", "cilium/cluster-config/koornacht").returncode == 0
    mesh.expect_whole()


def test_clusters_that_forget_each_other_answer_for_themselves_and_connect_again(mesh: Mesh) -> None:
    contexts = ("--context", "kind-koornacht", "--destination-context", "kind-tion")
    try:
        mesh.clustermesh("disconnect", *contexts)
        mesh.wait_for_answers("koornacht", "Koornacht")
        mesh.wait_for_answers("tion", "Tion")
        for cluster in CLUSTERS:
            assert mesh.clustermesh("status", "--context", f"kind-{cluster}").returncode == 0
            for pod in mesh.pods(cluster, "k8s-app=clustermesh-agent", SYSTEM):
                status = mesh.agent_rest(cluster, pod["spec"]["nodeName"], "/v1/status")
                assert status["peers"] == []
                other = "tion" if cluster == "koornacht" else "koornacht"
                assert mesh.agent_rest(cluster, pod["spec"]["nodeName"], f"/v1/ips?cluster={other}") == []
    finally:
        mesh.clustermesh("connect", *contexts)
    mesh.expect_whole()
