# SPDX-License-Identifier: Apache-2.0
"""What a tenant, a peer, a pod and a host off the mesh try, refused by what, and noticed by whom: `make e2e SCENARIO=trust`.

Requests go on in both clusters during every attack, and none of them may be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from e2e.faults import tunnels_dropped
from e2e.flood import OPENING_FLOWS, TIMES, flood
from e2e.forged import Victim, drops, send_from_pod, send_from_underlay, victim
from e2e.held import kept
from e2e.mesh import Cluster, Mesh
from e2e.peers import hoth, peer_file
from e2e.traffic import BOTH, Requests, traffic

Rows = list[tuple[str, str, str, str]]
Refused = Callable[[str, str, str], None]
HONEST = {
    "cilium/cluster-config/hoth": {"id": 3, "capabilities": {"maxConnectedClusters": 255}},
    "cilium/state/identities/v1/id/196609": "k8s:name=liar;k8s:io.cilium.k8s.policy.cluster=hoth;",
}


@pytest.fixture(scope="module")
def loops(mesh: Mesh) -> Iterator[tuple[Requests, Requests]]:
    with traffic(mesh) as found:
        yield found


@pytest.fixture
def refused(attacks: Rows, loops: tuple[Requests, Requests]) -> Iterator[Refused]:
    """Writes a row; at the end of the test both clusters still answer, and no request was lost since its beginning."""
    before = [loop.so_far() for loop in loops]
    mine: list[tuple[str, str, str]] = []
    yield lambda attacker, attack, by: mine.append((attacker, attack, by))
    for loop in loops:
        loop.wait_for_both()
    found = [loop.so_far() - known for loop, known in zip(loops, before, strict=True)]
    assert all(set(outcomes) == BOTH for outcomes in found), found
    noticed = f"nothing: {sum(outcomes.total() for outcomes in found)} requests answered"
    attacks += [(*row, noticed) for row in mine]


@pytest.fixture(scope="module")
def ours(mesh: Mesh) -> Iterator[Victim]:
    with victim(mesh, "koornacht") as found:
        yield found


@pytest.fixture(scope="module")
def theirs(mesh: Mesh) -> Iterator[Victim]:
    with victim(mesh, "tion") as found:
        yield found


def wait_known(mesh: Mesh, cluster: Cluster, node: str, address: str) -> None:
    """The node's agent knows whose address it is."""
    mesh.wait_until(
        f"{node} knows {address}",
        lambda: any(row["cidr"] == f"{address}/32" for row in mesh.agent_rest(cluster, node, "/v1/ips")),
    )


# ---- tenants


TENANT = """
apiVersion: v1
kind: Service
metadata: {{name: aaa}}
spec:
  externalIPs: ["{address}"]
  selector: {{name: x-wing}}
  ports: [{{name: dns, port: 53, protocol: UDP, targetPort: 5353}}, {{name: dns-tcp, port: 53, targetPort: 5353}}]
"""


def test_a_tenant_does_not_take_the_address_of_the_clusters_dns(mesh: Mesh, refused: Refused) -> None:
    dns = mesh.get("koornacht", "service", "-n", "kube-system", "kube-dns")["spec"]["clusterIP"]
    node = mesh.pod("koornacht", "x-wing")[1]
    text = TENANT.format(address=dns)
    try:
        mesh.apply("koornacht", text)
        mesh.wait_until(
            "the tenant is told",
            lambda: [
                e
                for e in mesh.get("koornacht", "events", "--field-selector=involvedObject.name=aaa")["items"]
                if dns in e["message"]
            ],
        )
        found = mesh.agent_rest("koornacht", node, "/v1/services")
        owners = {row["name"] for row in found if row["frontend"] == f"{dns}:53/UDP"}
        assert "kube-system/kube-dns" in owners
        refused("tenant", "externalIPs: the cluster's DNS", "a ClusterIP keeps its owner; Event on the Service")
    finally:
        mesh.delete("koornacht", text)


SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: bad, labels: {{kubernetes.io/service-name: rebel-base}}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints: [{{addresses: ["{address}"]}}]
"""


@pytest.mark.parametrize("address", ["010.1.1.3", "127.0.0.1", "169.254.169.254", "224.0.0.1"])
def test_an_endpoint_that_no_api_server_takes_is_refused_by_name(mesh: Mesh, refused: Refused, address: str) -> None:
    done = mesh.kubectl("koornacht", "apply", "-f", "-", input=SLICE.format(address=address), check=False)
    assert done.returncode != 0
    assert "endpoints[0].addresses[0]" in done.stderr
    refused("tenant", f"EndpointSlice with {address}", "API server, naming the field")


# ---- peers


class Lie(NamedTuple):
    """A record of a peer, the address that it is about, and why it is refused."""

    key: str
    about: str
    record: dict[str, object]
    reason: str


def node_record(name: str, address: str, network: str, **more: object) -> dict[str, object]:
    return {
        "Name": name,
        "Cluster": "hoth",
        "ClusterID": 3,
        "IPAddresses": [{"Type": "InternalIP", "IP": address}],
        "IPv4AllocCIDR": {"IP": network, "Mask": "////AA=="},
        **more,
    }


def ip_record(address: str, identity: int, host: str) -> dict[str, object]:
    return {"IP": address, "ID": identity, "HostIP": host, "K8sNamespace": "default", "K8sPodName": "liar"}


def test_a_peer_takes_no_address_that_is_somebody_elses(mesh: Mesh, ours: Victim, refused: Refused) -> None:
    """A third cluster claims our pod, our services, our node and what is nobody's; its own blocks are believed."""
    node = mesh.pod("koornacht", "x-wing")[1]
    service_ip = mesh.get("koornacht", "service", "rebel-base")["spec"]["clusterIP"]
    nodes, ips, host = "cilium/state/nodes/v1/hoth", "cilium/state/ip/v1/default", "172.18.0.99"
    services = service_ip.rpartition(".")[0] + ".0"

    def lying_node(reason: str, name: str, about: str, number: int, **more: object) -> Lie:
        record = node_record(name, f"172.18.0.{80 + number}", f"10.3.{number}.0") | more
        return Lie(f"{nodes}/{name}", about, record, reason)

    def lying_ip(reason: str, address: str, identity: int, behind: str) -> Lie:
        return Lie(f"{ips}/{address}", address, ip_record(address, identity, behind), reason)

    def block(network: str) -> dict[str, str]:
        return {"IP": network, "Mask": "////AA=="}

    internal = [{"Type": "InternalIP", "IP": ours.node_address}]
    network, metadata = "foreign-network", "169.254.169.254"
    lies = {
        "IPv4HealthIP: our pod": lying_node(network, "health", ours.address, 1, IPv4HealthIP=ours.address),
        "IPv4IngressIP: our pod": lying_node(network, "ingress", ours.address, 2, IPv4IngressIP=ours.address),
        "InternalIP: our node": lying_node(network, "internal", ours.node_address, 3, IPAddresses=internal),
        "IPv4AllocCIDR: our services": lying_node(network, "services", service_ip, 4, IPv4AllocCIDR=block(services)),
        "IPv4AllocCIDR: 169.254.169.0/24": lying_node(
            network, "metadata", metadata, 5, IPv4AllocCIDR=block("169.254.169.0")
        ),
        "IP record: our pod": lying_ip("address-outside", ours.address, 196609, host),
        "IP record: identity host": lying_ip("reserved-identity", "10.3.0.8", 1, host),
        "IP record: an identity of ours": lying_ip("out-of-range", "10.3.0.9", 66000, host),
        "IP record: behind our node": lying_ip("unknown-host", "10.3.0.10", 196609, ours.node_address),
    }
    honest = {
        f"{nodes}/honest": node_record("honest", host, "10.3.0.0"),
        f"{ips}/192.168.219.7": ip_record("192.168.219.7", 196609, host),
    }
    records = {**HONEST, **honest, **{lie.key: lie.record for lie in lies.values()}}
    with hoth(mesh, "koornacht", records) as text, peer_file(mesh, "koornacht", "hoth", text):
        wait_known(mesh, "koornacht", node, "192.168.219.7")
        counted = mesh.agent_rest("koornacht", node, "/v1/clusters/hoth/rejected")
        assert {reason: row["total"] for reason, row in counted.items()} == Counter(lie.reason for lie in lies.values())
        for attack, lie in lies.items():
            assert not is_believed(mesh, node, lie.about), attack
            refused("peer", attack, f"agent: record rejected ({lie.reason})")
        assert mesh.agent_rest("koornacht", node, f"/v1/ip/{ours.address}")["cluster"] == "koornacht"
        refused("peer", "pods outside its nodes' podCIDR (honest)", "nobody: believed")
    mesh.wait_until("hoth is gone", lambda: len(mesh.agent_rest("koornacht", node, "/v1/clusters")) == 1)


def is_believed(mesh: Mesh, node: str, address: str) -> bool:
    """Whether the kernel of the node is told that the address is the liar's, with an identity."""
    rows = mesh.agent_rest("koornacht", node, "/v1/ips?cluster=hoth")
    return any(row["cidr"] == f"{address}/32" and row["identity"] for row in rows)


# ---- pods


def test_a_pod_speaks_for_itself_alone(mesh: Mesh, ours: Victim, refused: Refused) -> None:
    pod, node, address = mesh.pod("koornacht", "x-wing")
    other = mesh.pod("koornacht", "rebel-base")[2]
    wait_known(mesh, "koornacht", node, ours.address)
    send_from_pod(mesh, "koornacht", pod, other, ours.address, "as-another-pod")
    send_from_pod(mesh, "koornacht", pod, "172.18.0.2", ours.address, "as-a-node")
    send_from_pod(mesh, "koornacht", pod, "", ours.address, "honest")
    mesh.wait_until("the honest one arrives", lambda: ours.hears("honest"))
    assert f"honest from {address}" in ours.heard()
    assert not ours.hears("as-another-pod")
    assert not ours.hears("as-a-node")
    assert "Invalid source ip" in drops(mesh, "koornacht", node)
    refused("pod", "packets with another pod's source", "datapath: Invalid source ip")
    refused("pod", "packets with a node's source", "datapath: Invalid source ip")


def test_a_pod_sends_no_tunnel_packets(mesh: Mesh, theirs: Victim, refused: Refused) -> None:
    """To a node of the peer, as if its own node had encapsulated them, with an identity of its choice."""
    pod, node, address = mesh.pod("koornacht", "x-wing")
    wait_known(mesh, "tion", theirs.node, address)
    identity = str(mesh.agent_rest("tion", theirs.node, f"/v1/ip/{address}")["identity"])
    for number, source in enumerate((address, "10.1.0.77")):
        send_from_pod(
            mesh, "koornacht", pod, source, theirs.address, f"tunnel-{number}", "", theirs.node_address, identity
        )
    send_from_pod(mesh, "koornacht", pod, "", theirs.address, "honest-tunnel")
    mesh.wait_until("the honest one arrives", lambda: theirs.hears("honest-tunnel"))
    assert not theirs.hears("tunnel-0")
    assert not theirs.hears("tunnel-1")
    shown = drops(mesh, "koornacht", node)
    assert "Encapsulation traffic is prohibited" in shown, shown
    refused("pod", "VXLAN to a node of the peer", "datapath: Encapsulation traffic is prohibited")


# ---- hosts off the mesh


@pytest.mark.runbook("drop-sender")
def test_a_host_off_the_mesh_is_no_pod_of_a_peer(mesh: Mesh, ours: Victim, refused: Refused) -> None:
    """Plain IP with a remote pod's source; then VXLAN, which it may only send from its own address."""
    remote = mesh.pod("tion", "x-wing")[2]
    wait_known(mesh, "koornacht", ours.node, remote)
    identity = str(mesh.agent_rest("koornacht", ours.node, f"/v1/ip/{remote}")["identity"])
    send_from_underlay(mesh, remote, ours.address, "plain", via=ours.node_address)
    send_from_underlay(mesh, remote, ours.address, "tunnelled", "", ours.node_address, identity)
    send_from_pod(mesh, "tion", mesh.pod("tion", "x-wing")[0], "", ours.address, "really-remote")
    mesh.wait_until("the real one arrives", lambda: ours.hears("really-remote"))
    assert not ours.hears("plain")
    assert not ours.hears("tunnelled")
    shown = drops(mesh, "koornacht", ours.node)
    for attack, words in (
        ("plain IP with a remote pod's source", "Source is behind a tunnel and came without it"),
        ("VXLAN with a remote pod's identity", "Unknown sender"),
    ):
        assert words.lower() in shown.lower(), shown
        refused("host off the mesh", attack, f"datapath: {words}")


# ---- the network between


def test_a_network_that_lets_no_tunnel_through_costs_ten_seconds(mesh: Mesh, attacks: Rows) -> None:
    """UDP 8472 is dropped between the clusters and all else passes: control is fine, data is not."""
    node = mesh.pod("koornacht", "x-wing")[1]
    mesh.expect_whole()
    with tunnels_dropped(mesh):
        mesh.wait_until(
            "koornacht chooses its own pods only", lambda: set(mesh.answers("koornacht", 20, 1)) == {"Koornacht"}, 14
        )
        found = mesh.answers("koornacht", 60)
        assert set(found) == {"Koornacht"}, found
        problems = mesh.agent_rest("koornacht", node, "/v1/status")["problems"]
        assert [text for text in problems if "tion" in text], problems
        assert mesh.clustermesh("status", check=False).returncode != 0
    mesh.expect_whole()
    row = (
        "network",
        "UDP 8472 dropped, all else open",
        "probe through the overlay: nodes withdrawn",
        "at most 10 s of time-outs",
    )
    attacks.append(row)


# ---- connections that stay


def test_a_flood_of_opening_flows_ends_no_connection(mesh: Mesh, attacks: Rows) -> None:
    """From the pod that has the connections, ten times what the table of such flows holds."""
    pod, node, _ = mesh.pod("koornacht", "x-wing")
    mesh.expect_whole()
    with kept(mesh, pod, 6) as (before, ask_again):
        assert flood(mesh, "koornacht", pod) == TIMES * OPENING_FLOWS
        status = mesh.wait_until("the flood is named", lambda: flood_named(mesh, node))
        assert ask_again() == before
        assert len(before) == 6
    mesh.expect_whole()
    attacks.append(
        ("pod", f"{TIMES * OPENING_FLOWS:,} SYNs", f"agent: {status[:40]}...", "nothing: 6 of 6 connections go on")
    )


def flood_named(mesh: Mesh, node: str) -> str:
    problems = mesh.agent_rest("koornacht", node, "/v1/status")["problems"]
    return next((text for text in problems if "were opened and not answered" in text), "")


def test_an_edit_of_the_service_ends_no_connection(mesh: Mesh, attacks: Rows) -> None:
    """Connections to the peer go on when affinity, and then the own pods, turn new ones away from it."""
    pod = mesh.pod("koornacht", "x-wing")[0]
    annotate = ("koornacht", "annotate", "service", "rebel-base", "--overwrite")
    try:
        mesh.kubectl(*annotate, "service.cilium.io/affinity=remote")
        mesh.wait_for_answers("koornacht", "Tion")
        with kept(mesh, pod, 3) as (before, ask_again):
            assert before == ["Tion"] * 3
            mesh.kubectl(*annotate, "service.cilium.io/affinity=local")
            mesh.wait_for_answers("koornacht", "Koornacht")
            assert ask_again() == ["Tion"] * 3
    finally:
        mesh.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/affinity-")
        mesh.expect_whole()
    attacks.append(
        ("owner", "affinity changes under open connections", "deselected backends keep them", "nothing: 3 of 3 go on")
    )
