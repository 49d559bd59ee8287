# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom under each kind of rule, in both clusters: pods, nodes and addresses outside of the mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
import pytest

from e2e.mesh import Cluster, Mesh
from e2e.policies import (
    DROPPED,
    NODE_PORT,
    OUTSIDE,
    REACHED,
    Place,
    ask,
    ask_from,
    cilium_policy,
    in_force,
    in_pod,
    kubernetes_policy,
    manifest,
    servers,
)

CONTROL_PLANE = "koornacht-control-plane"
FROM_KOORNACHT = "io.cilium.k8s.policy.cluster: koornacht"
NODE_LABEL = "e2e-role"
EDGE = f"matchLabels: {{{NODE_LABEL}: edge}}"
X_WING = "podSelector: {matchLabels: {name: x-wing}}"
# one connection, a request every tenth of a second; a new connection would be judged as a new one
CONVERSATION = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=60)
connection.connect()
mine = connection.sock
while True:
    connection.request("GET", "/")
    print(connection.getresponse().read().decode().strip(), flush=True)
    if connection.sock is not mine:
        sys.exit("the connection was closed")
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Places:
    """A client in koornacht with everything it may try to reach, and clients of a server in tion."""

    client: Place
    targets: dict[str, str]
    server: str
    sources: dict[str, Place]


@pytest.fixture(scope="module")
def places(mesh: Mesh) -> Iterator[Places]:
    name, own_node, _ = mesh.pod("koornacht", "x-wing")
    (_, _, address), (other, _, _) = two_pods(mesh, "tion", "rebel-base")
    _, peer_node, _ = mesh.pod("tion", "x-wing")
    clusters: dict[str, Cluster] = {own_node: "koornacht", CONTROL_PLANE: "koornacht", peer_node: "tion"}
    hosts = {node: internal_ip(mesh, cluster, node) for node, cluster in clusters.items()}
    for node, cluster in clusters.items():
        label(mesh, cluster, node, "plain" if node == own_node else "edge")
    with servers(mesh, tuple(hosts), outside_at=CONTROL_PLANE):
        yield Places(
            client=Place("koornacht", name),
            targets={
                "own pod": mesh.pod("koornacht", "rebel-base")[2],
                "peer's pod": address,
                "own node": f"{hosts[own_node]}:{NODE_PORT}",
                "other node": f"{hosts[CONTROL_PLANE]}:{NODE_PORT}",
                "peer's node": f"{hosts[peer_node]}:{NODE_PORT}",
                "outside": f"{OUTSIDE}:{NODE_PORT}",
            },
            server=address,
            sources={
                "x-wing in koornacht": Place("koornacht", name),
                "rebel-base in koornacht": Place("koornacht", mesh.pod("koornacht", "rebel-base")[0]),
                "x-wing in tion": Place("tion", mesh.pod("tion", "x-wing")[0]),
                "rebel-base in tion": Place("tion", other),
            },
        )


def label(mesh: Mesh, cluster: Cluster, node: str, role: str) -> None:
    """The node has this role, by a label of its Node object."""
    mesh.kubectl(cluster, "label", "--overwrite", "node", node, f"{NODE_LABEL}={role}")


def two_pods(mesh: Mesh, cluster: Cluster, app: str) -> list[tuple[str, str, str]]:
    found = mesh.pods(cluster, f"name={app}")
    assert len(found) == 2
    return [(p["metadata"]["name"], p["spec"]["nodeName"], p["status"]["podIP"]) for p in found]


def internal_ip(mesh: Mesh, cluster: Cluster, node: str) -> str:
    addresses = mesh.get(cluster, "node", node)["status"]["addresses"]
    return str(next(a["address"] for a in addresses if a["type"] == "InternalIP"))


@pytest.fixture
def open_again(mesh: Mesh, places: Places) -> Iterator[None]:
    """After the scenario everything is reached again, as before it."""
    yield
    targets = dict.fromkeys(places.targets, REACHED)
    mesh.wait_until("all targets are reached", lambda: ask(mesh, places.client, places.targets) == targets)
    sources = dict.fromkeys(places.sources, REACHED)
    mesh.wait_until("all sources are let in", lambda: ask_from(mesh, places.sources, places.server) == sources)


EGRESS = {
    "entity world": ("egress: [{toEntities: [world]}]", {"outside"}),
    "entity cluster": ("egress: [{toEntities: [cluster]}]", {"own pod", "own node", "other node", "peer's node"}),
    "entity host": ("egress: [{toEntities: [host]}]", {"own node"}),
    "entity remote-node": ("egress: [{toEntities: [remote-node]}]", {"other node", "peer's node"}),
    "entity all": (
        "egress: [{toEntities: [all]}]",
        {"own pod", "peer's pod", "own node", "other node", "peer's node", "outside"},
    ),
    "address ranges that hold pods and nodes": ("egress: [{toCIDR: [10.0.0.0/8, 172.18.0.0/16]}]", {"outside"}),
    "a range with a hole": (
        f"egress: [{{toCIDRSet: [{{cidr: 172.18.0.0/16, except: [{OUTSIDE}/32]}}]}}]",
        set(),
    ),
    "nodes by label": (f"egress: [{{toNodes: [{{{EDGE}}}]}}]", {"other node", "peer's node"}),
    "nodes by label of one cluster": (
        f"egress: [{{toNodes: [{{matchLabels: {{{NODE_LABEL}: edge, {FROM_KOORNACHT}}}}}]}}]",
        {"other node"},
    ),
    "nodes by one of some values": (
        f"egress: [{{toNodes: [{{matchExpressions: [{{key: {NODE_LABEL}, operator: In, values: [plain, other]}}]}}]}}]",
        {"own node"},
    ),
    "all but nodes by label": (
        f"egress: [{{toEntities: [all]}}], egressDeny: [{{toNodes: [{{{EDGE}}}]}}]",
        {"own pod", "peer's pod", "own node", "outside"},
    ),
    "a port": ('egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]', {"own pod", "peer's pod"}),
    "a global service": (
        "egress: [{toServices: [{k8sService: {serviceName: rebel-base}}]}]",
        {"own pod", "peer's pod"},
    ),
    "a service that is not there": ("egress: [{toServices: [{k8sService: {serviceName: death-star}}]}]", set()),
    "all but a global service": (
        "egress: [{toEntities: [all]}], egressDeny: [{toServices: [{k8sService: {serviceName: rebel-base}}]}]",
        {"own node", "other node", "peer's node", "outside"},
    ),
    "all but pods of the peer": (
        "egress: [{toEntities: [all]}], egressDeny: [{toEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: tion}}]}]",
        {"own pod", "own node", "other node", "peer's node", "outside"},
    ),
}


@pytest.mark.parametrize("name", EGRESS)
@pytest.mark.usefixtures("open_again")
def test_an_egress_rule_reaches_exactly_what_it_names(mesh: Mesh, places: Places, name: str) -> None:
    spec, allowed = EGRESS[name]
    wanted = {target: REACHED if target in allowed else DROPPED for target in places.targets}
    with in_force(mesh, {"koornacht": [cilium_policy("e2e-egress", "x-wing", spec)]}):
        node = mesh.pod("koornacht", "x-wing")[1]
        mesh.wait_until("the client's agent knows it", lambda: is_known(mesh, "koornacht", node, "e2e-egress"))
        mesh.wait_until(f"{name}: {wanted}", lambda: ask(mesh, places.client, places.targets) == wanted)
        assert ask(mesh, places.client, places.targets) == wanted


@pytest.mark.usefixtures("open_again")
def test_a_node_that_gets_another_label_is_another_peer(mesh: Mesh, places: Places) -> None:
    target = {"node": places.targets["other node"]}
    with in_force(mesh, {"koornacht": [cilium_policy("e2e-egress", "x-wing", EGRESS["nodes by label"][0])]}):
        for role, wanted in (("edge", REACHED), ("plain", DROPPED), ("edge", REACHED)):
            label(mesh, "koornacht", CONTROL_PLANE, role)
            mesh.wait_until(f"{role}: {wanted}", lambda: ask(mesh, places.client, target) == {"node": wanted})  # noqa: B023


ALL = {"x-wing in koornacht", "rebel-base in koornacht", "x-wing in tion", "rebel-base in tion"}
INGRESS = {
    "entity cluster": (
        cilium_policy("e2e-ingress", "rebel-base", "ingress: [{fromEntities: [cluster]}]"),
        {"x-wing in tion", "rebel-base in tion"},
    ),
    "entity world": (cilium_policy("e2e-ingress", "rebel-base", "ingress: [{fromEntities: [world]}]"), set()),
    "address ranges that hold pods": (
        cilium_policy("e2e-ingress", "rebel-base", "ingress: [{fromCIDR: [0.0.0.0/0, 10.1.0.0/16, 10.2.0.0/16]}]"),
        set(),
    ),
    "one application of the other cluster": (
        cilium_policy(
            "e2e-ingress",
            "rebel-base",
            f"ingress: [{{fromEndpoints: [{{matchLabels: {{name: x-wing, {FROM_KOORNACHT}}}}}]}}]",
        ),
        {"x-wing in koornacht"},
    ),
    "a deny that denies nobody else": (
        cilium_policy(
            "e2e-ingress",
            "rebel-base",
            "enableDefaultDeny: {ingress: false}, "
            f"ingressDeny: [{{fromEndpoints: [{{matchLabels: {{name: x-wing, {FROM_KOORNACHT}}}}}]}}]",
        ),
        ALL - {"x-wing in koornacht"},
    ),
    "a deny beats an allow": (
        cilium_policy(
            "e2e-ingress",
            "rebel-base",
            f"ingress: [{{fromEntities: [all]}}], ingressDeny: [{{fromEndpoints: [{{matchLabels: {{{FROM_KOORNACHT}}}}}]}}]",
        ),
        {"x-wing in tion", "rebel-base in tion"},
    ),
    "Kubernetes: pods of every cluster": (
        kubernetes_policy("e2e-ingress", "rebel-base", f"ingress: [{{from: [{{{X_WING}}}], ports: [{{port: 80}}]}}]"),
        {"x-wing in koornacht", "x-wing in tion"},
    ),
    "Kubernetes: another port": (
        kubernetes_policy("e2e-ingress", "rebel-base", f"ingress: [{{from: [{{{X_WING}}}], ports: [{{port: 81}}]}}]"),
        set(),
    ),
    "Kubernetes: a block that holds pods": (
        kubernetes_policy("e2e-ingress", "rebel-base", "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]"),
        set(),
    ),
    "Kubernetes: an empty rule": (kubernetes_policy("e2e-ingress", "rebel-base", "ingress: [{}]"), ALL),
}


@pytest.mark.parametrize("name", INGRESS)
@pytest.mark.usefixtures("open_again")
def test_an_ingress_rule_lets_in_exactly_whom_it_names(mesh: Mesh, places: Places, name: str) -> None:
    policy, allowed = INGRESS[name]
    wanted = {source: REACHED if source in allowed else DROPPED for source in places.sources}
    with in_force(mesh, {"tion": [policy]}):
        node = two_pods(mesh, "tion", "rebel-base")[0][1]
        mesh.wait_until("the server's agent knows it", lambda: is_known(mesh, "tion", node, "e2e-ingress"))
        mesh.wait_until(f"{name}: {wanted}", lambda: ask_from(mesh, places.sources, places.server) == wanted)
        assert ask_from(mesh, places.sources, places.server) == wanted


def is_known(mesh: Mesh, cluster: Cluster, node: str, name: str) -> bool:
    return (name, True) in [(p["name"], p["valid"]) for p in mesh.agent_rest(cluster, node, "/v1/policy")["policies"]]


DENIALS: dict[str, tuple[Cluster, str]] = {
    "the client's cluster": (
        "koornacht",
        cilium_policy(
            "e2e-deny", "x-wing", "enableDefaultDeny: {egress: false}, "
            "egressDeny: [{toEndpoints: [{matchLabels: {name: rebel-base, io.cilium.k8s.policy.cluster: tion}}]}]"
        ),
    ),
    "the server's cluster": (
        "tion",
        cilium_policy(
            "e2e-deny", "rebel-base", "enableDefaultDeny: {ingress: false}, "
            f"ingressDeny: [{{fromEndpoints: [{{matchLabels: {{name: x-wing, {FROM_KOORNACHT}}}}}]}}]"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", DENIALS)
def test_a_deny_stops_an_open_connection_and_its_end_lets_it_go_on(mesh: Mesh, places: Places, where: str) -> None:
    cluster, policy = DENIALS[where]
    with in_pod(mesh, places.client, CONVERSATION, places.server) as lines:
        mesh.wait_until("the conversation goes on", lambda: len(lines()) > 5)
        with in_force(mesh, {cluster: [policy]}):
            mesh.wait_until("nothing is heard for a second", lambda: is_quiet(mesh, lines), 10)
        said = len(lines())
        mesh.wait_until("the same connection goes on", lambda: len(lines()) > said + 5)
        assert {orjson.loads(line)["Cluster"] for line in lines()} == {"Tion"}


def is_quiet(mesh: Mesh, lines: Callable[[], list[str]]) -> bool:
    """Whether no answer comes for as long as ten of them take."""
    before = len(lines())
    try:
        mesh.wait_until("an answer", lambda: len(lines()) > before, 1.0)
    except AssertionError:
        return True
    return False


def test_explain_names_the_side_that_denies(mesh: Mesh, places: Places) -> None:
    words = ("explain", "policy", "--context", "kind-koornacht", "--destination-context", "kind-tion")
    ends = (f"--from=default/{places.client.pod}", f"--to=default/{two_pods(mesh, 'tion', 'rebel-base')[0][0]}@tion")
    ask_words = (*words, *ends, "--port", "80/TCP", "-o", "json")
    policies: dict[Cluster, list[str]] = {
        "koornacht": [manifest("default-deny.yaml"), manifest("x-wing-to-rebel-base.yaml")],
        "tion": [manifest("default-deny.yaml")],
    }
    with in_force(mesh, policies):
        mesh.wait_until("tion denies it", lambda: ask(mesh, places.client, {"it": places.server})["it"] == DROPPED)
        mesh.wait_until("the nodes have caught up", lambda: not remarks(mesh, ask_words))
        done = mesh.clustermesh(*ask_words, check=False)
        said = orjson.loads(done.stdout)
        assert (done.returncode, said["verdict"]) == (4, "denied")
        assert said["egress"]["verdict"] == "allowed"
        assert said["egress"]["deciding-rule"] == "cnp/default/x-wing-to-rebel-base egress[0]"
        assert (said["ingress"]["cluster"], said["ingress"]["verdict"]) == ("tion", "denied")
        assert said["egress"]["node"]["verdict"] == "allowed"
        assert said["ingress"]["node"]["verdict"] == "denied"
        assert said["egress"]["peer"]["known"]
        assert said["egress"]["peer"]["told-by"] == "tion"
        with in_force(mesh, {"tion": [manifest("rebel-base-from-x-wing.yaml")]}):
            mesh.wait_until("it is allowed", lambda: mesh.clustermesh(*ask_words, check=False).returncode == 0)
            mesh.wait_until("it passes", lambda: ask(mesh, places.client, {"it": places.server})["it"] == REACHED)
    mesh.expect_whole()


def remarks(mesh: Mesh, words: tuple[str, ...]) -> list[str]:
    said = orjson.loads(mesh.clustermesh(*words, check=False).stdout)
    return [*said["egress"]["remarks"], *said["ingress"]["remarks"]]
