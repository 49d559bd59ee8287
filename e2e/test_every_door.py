# SPDX-License-Identifier: Apache-2.0
"""Everything of ours that listens, found by looking: who has no right to it gets nothing but health and metrics.

Asked from a pod of each cluster and from a node of the peer, with nothing, with tokens and with certificates that others have.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Final

import pytest

from certs.authority import Authority
from certs.profile import local, relay, remote
from e2e.faults import processes_of
from e2e.knock import SILENT, Door, knock
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh, Result, run
from e2e.policies import cilium_policy, in_force
from e2e.test_dns_rules import TO_DNS
from e2e.test_http_rules import TO_REBELS, http
from lab.mesh import node_command
from meshapi.installed import (
    AGENT_PORT,
    AGENT_SELECTOR,
    APISERVER_PORT,
    APISERVER_SELECTOR,
    APISERVER_SOCKET,
    FLOW_PORT,
    PROBE_PORT,
    PROXIES_PROBE_PORT,
    RELAY,
    RELAY_HTTP_PORT,
    RELAY_PEERS_PORT,
    RELAY_PORT,
    RELAY_SOCKET,
    STORE_PORT,
    TOKEN_AUDIENCE,
)
from meshkit.clock import SystemClock

ASKED: Final[Cluster] = "koornacht"
PEER: Final[Cluster] = "tion"
OPEN: Final = {"/healthz", "/readyz", "/metrics"}
NEVER_LISTED: Final = {"/", "/docs", "/openapi.json", "/ui/", "/ui/files/x"}
"""Paths that no OpenAPI document has."""
AGENT_DOORS: Final = {("tcp", AGENT_PORT): "rest", ("tcp", FLOW_PORT): "tls"}
APISERVER_DOORS: Final = {("tcp", APISERVER_PORT): "rest", ("tcp", STORE_PORT): "tls", ("tcp", PROBE_PORT): "probe"}
RELAY_DOORS: Final = {
    ("tcp", RELAY_HTTP_PORT): "rest",
    ("tcp", RELAY_PORT): "tls",
    ("tcp", RELAY_PEERS_PORT): "tls",
    ("tcp", PROBE_PORT): "probe",
}
FOR_PEERS: Final = {STORE_PORT, RELAY_PEERS_PORT}
"""Doors of TLS that let in whoever a peer's authority vouches for, and judge what is asked then."""
POLICY: Final = "judged-by-proxies"
PROBES: Final = ("/healthz", "/readyz", "/", "/metrics", "/v1/status")


@pytest.fixture(scope="module")
def guarded(mesh: Mesh) -> Iterator[Mesh]:
    """The cluster that is asked has everything: a relay, and pods whose requests and names are judged by the proxies."""
    mesh.clustermesh("enable", "--context", f"kind-{ASKED}", "--with-relay")
    mesh.kubectl(ASKED, "rollout", "status", "-n", SYSTEM, f"deployment/{RELAY}", "--timeout=90s")
    rules = cilium_policy(POLICY, "x-wing", f"egress: [{{{TO_REBELS}, {http('/')}}}, {TO_DNS}]")
    with in_force(mesh, {ASKED: [rules]}):
        yield mesh
    mesh.clustermesh("enable", "--context", f"kind-{ASKED}", "--without-relay")


def listened(text: str, pids: set[int] | None = None) -> set[tuple[str, str, int, str]]:
    """Protocol, address, port and program of each socket that `ss -Hltnup` shows; those of `pids` alone, if given."""
    found = set()
    for line in text.splitlines():
        protocol, _, _, _, where, *_ = line.split()
        owner = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
        if owner is None or (pids is not None and int(owner[2]) not in pids):
            continue
        address, _, port = where.rpartition(":")
        found.add((protocol, address, int(port), owner[1]))
    return found


def is_open(address: str) -> bool:
    return not address.startswith(("127.", "[::1]"))


def at_nodes(mesh: Mesh, cluster: Cluster) -> dict[str, set[tuple[str, str, int, str]]]:
    """What our programs listen on, by the address of each node."""
    ours = mesh.pods(cluster, "k8s-app=clustermesh-proxies", SYSTEM) + mesh.pods(cluster, AGENT_SELECTOR, SYSTEM)
    found: dict[str, set[tuple[str, str, int, str]]] = {}
    for pod in ours:
        text = mesh.on_node(pod["spec"]["nodeName"], "ss", "-Hltnup").stdout
        found.setdefault(pod["status"]["podIP"], set()).update(listened(text, set(processes_of(mesh, pod))))
    return found


def proxied(mesh: Mesh) -> dict[str, set[int]]:
    """By node, the ports of TCP at which proxies take what policies hand to them; `doors` sees that nobody else reaches them.

    Equal rules may have another port on each node, by what the node had before.
    """
    no_proxys = {AGENT_PORT, FLOW_PORT, PROBE_PORT, PROXIES_PROBE_PORT}
    return {
        address: {port for protocol, _, port, _ in sockets if protocol == "tcp"} - no_proxys
        for address, sockets in at_nodes(mesh, ASKED).items()
    }


def proxies_listen(mesh: Mesh) -> bool:
    """Envoy and the DNS proxy, on each node that has a pod whose requests and names are judged."""
    ports = proxied(mesh)
    return all(len(ports[pod["status"]["hostIP"]]) >= 2 for pod in mesh.pods(ASKED, "name=x-wing"))


def in_pods(mesh: Mesh, cluster: Cluster, selector: str) -> dict[str, set[tuple[str, str, int, str]]]:
    """The same of pods that have a network of their own."""
    return {
        pod["status"]["podIP"]: listened(
            mesh.kubectl(cluster, "exec", "-n", SYSTEM, pod["metadata"]["name"], "--", "ss", "-Hltnup").stdout
        )
        for pod in mesh.pods(cluster, selector, SYSTEM)
    }


def paths_of(mesh: Mesh, cluster: Cluster, selector: str, socket: str) -> tuple[str, ...]:
    """Every path of a program, told by itself at its unix socket."""
    pod = mesh.pods(cluster, selector, SYSTEM)[0]["metadata"]["name"]
    asked = ("curl", "-sf", "--unix-socket", socket, "http://x/openapi.json")
    document = json.loads(mesh.kubectl(cluster, "exec", "-n", SYSTEM, pod, "--", *asked).stdout)
    return tuple(sorted({re.sub(r"{\w+}", "x", path) for path in document["paths"]} | NEVER_LISTED | OPEN))


def doors(mesh: Mesh) -> list[Door]:
    """All that can be reached from outside of a node or a pod. What is not expected is no door, but a failure."""
    node = mesh.pods(ASKED, AGENT_SELECTOR, SYSTEM)[0]["spec"]["nodeName"]
    agent = mesh.agent_rest(ASKED, node, "/openapi.json")["paths"]
    paths = {
        AGENT_PORT: tuple(sorted({re.sub(r"{\w+}", "x", path) for path in agent} | NEVER_LISTED | OPEN)),
        APISERVER_PORT: paths_of(mesh, ASKED, APISERVER_SELECTOR, APISERVER_SOCKET),
        RELAY_HTTP_PORT: paths_of(mesh, ASKED, f"k8s-app={RELAY}", RELAY_SOCKET),
    }
    assert all(len(found) > 10 for found in paths.values()), paths
    found = []
    for expected, listening in (
        (AGENT_DOORS, at_nodes(mesh, ASKED)),
        (APISERVER_DOORS, in_pods(mesh, ASKED, APISERVER_SELECTOR)),
        (RELAY_DOORS, in_pods(mesh, ASKED, f"k8s-app={RELAY}")),
    ):
        assert listening
        for address, sockets in listening.items():
            reachable = {(protocol, port) for protocol, where, port, _ in sockets if is_open(where)}
            probing = {(protocol, port) for protocol, port in reachable if protocol == "udp" and port > 32767}
            assert reachable - probing == set(expected), f"{address}: {sorted(sockets)}"
            for (_, port), kind in expected.items():
                shown = PROBES if kind == "probe" else paths.get(port, ())
                found.append(Door("tls" if kind == "tls" else "rest", address, port, shown))
            found += [Door("udp", address, port) for _, port in probing]
    return found


def pem(mesh: Mesh, cluster: Cluster, secret: str) -> str:
    data = mesh.get(cluster, "secret", "-n", SYSTEM, secret)["data"]
    return base64.b64decode(data["tls.key"]).decode() + base64.b64decode(data["tls.crt"]).decode()


def peers_certificates(mesh: Mesh) -> dict[str, str]:
    """What the peer has, and what it can make: names of the asked cluster, signed by the peer's authority."""
    ca = mesh.get(PEER, "secret", "-n", SYSTEM, "clustermesh-ca")["data"]
    authority = Authority.load(base64.b64decode(ca["ca.crt"]), base64.b64decode(ca["ca.key"]))
    found = {"": "", "the peer": pem(mesh, PEER, "clustermesh-apiserver-remote-cert")}
    for shape in (relay(PEER), local(PEER), relay(ASKED), local(ASKED), remote(ASKED)):
        made = authority.issue(shape, SystemClock().wall())
        found[f"{shape.common_name} by the peer"] = (made.key_pem + made.cert_pem).decode()
    return found


def tenants_tokens(mesh: Mesh) -> dict[str, str]:
    """Nobody's, nonsense, and what any pod may have mounted: a token of its account for our audience; the peer's viewer too."""

    def token(cluster: Cluster, account: str, namespace: str, *words: str) -> str:
        return mesh.kubectl(cluster, "create", "token", account, "-n", namespace, *words).stdout.strip()

    ours = ("--audience", TOKEN_AUDIENCE)
    return {
        "": "",
        "nonsense": "x",
        "a tenant": token(ASKED, "default", "default"),
        "a tenant with our audience": token(ASKED, "default", "default", *ours),
        "the peer's viewer": token(PEER, "clustermesh-viewer", SYSTEM, *ours),
    }


def callers(mesh: Mesh) -> dict[str, list[str]]:
    """The words before a command that run it there; all take input."""
    found = {}
    for cluster in CLUSTERS:
        pod = mesh.pod(cluster, "rebel-base")[0]
        found[f"a pod of {cluster}"] = [
            "kubectl", f"--kubeconfig={mesh.names.kubeconfig(cluster)}", "exec", "-i", pod, "--",
        ]  # fmt: skip
    node = mesh.pod(PEER, "rebel-base")[1]
    found[f"a node of {PEER}"] = node_command(mesh.names.node(node), ())
    return found


def test_whoever_has_no_right_to_it_learns_health_and_metrics_and_nothing_else(guarded: Mesh) -> None:
    guarded.wait_until("Envoy and the DNS proxy listen", lambda: proxies_listen(guarded))
    walked, tokens, certificates = doors(guarded), tenants_tokens(guarded), peers_certificates(guarded)
    for caller, before in callers(guarded).items():

        def execute(command: object, text: str, before: list[str] = before) -> Result:
            return run([*before, *command], input=text)  # type: ignore[misc]

        got = knock(execute, walked, tokens, certificates)
        wrong = {asked: said for asked, said in got.items() if not may_be(asked, said)}
        assert not wrong, f"{caller}: {json.dumps(wrong, indent=1)}"
        if caller == f"a pod of {ASKED}":
            assert {"200", "401", "403", "404", SILENT, "let in"} <= set(got.values()), "the doors were reached"


def may_be(asked: str, said: str) -> bool:
    """Whether somebody without a right may get this."""
    kind, where, *_ = asked.split()
    port, _, path = where.partition(":")[2].partition("/")
    if said == SILENT:
        return True
    if kind == "TLS":
        return int(port) in FOR_PEERS and ("by the peer" in asked or "as the peer" in asked)
    if kind == "UDP":
        return False
    if int(port) == PROBE_PORT:
        return said == "404" or (kind == "GET" and f"/{path}" in ("/healthz", "/readyz"))
    if kind == "GET" and f"/{path}" in OPEN:
        return said in ("200", "503")
    return said in ("401", "403")


def test_metrics_of_no_program_name_a_pod_or_a_policy(guarded: Mesh) -> None:
    names = [p["metadata"]["name"] for p in guarded.get(ASKED, "pods", "-n", "default")["items"]]
    names += [p["metadata"]["name"] for p in guarded.get(ASKED, "cnp", "-n", "default")["items"]]
    assert POLICY in names
    for door in doors(guarded):
        if "/metrics" in door.paths and door.port != PROBE_PORT:
            asked = ("curl", "-sf", "--max-time", "5", f"http://{door.host}:{door.port}/metrics")
            text = guarded.kubectl(ASKED, "exec", guarded.pod(ASKED, "rebel-base")[0], "--", *asked).stdout
            assert "clustermesh_" in text
            assert not [name for name in names if name in text], door
