# SPDX-License-Identifier: Apache-2.0
"""Policies: at rest a node decides each packet of its pods as the documents say, and what is settled never opens by a fault.

The model is `tests/support/policy_twin.py`, which reads the documents for every packet and shares no code with the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import Context
from functools import partial
from typing import Any, Final, NamedTuple

from agent.datapath.layout import AddressKey, Direction, IpcacheKey
from kube.resource import CCNP, CIDR_GROUPS, CLUSTER_NETWORK_POLICIES, CNP, NETWORK_POLICIES, PODS, KubeObject
from kube.resource import NAMESPACES as SPACES
from tests.simulation import truth
from tests.simulation.actors.policies import BROKEN
from tests.simulation.checks.calm import Calm
from tests.simulation.cluster import Cluster, Node
from tests.simulation.kept import kept
from tests.simulation.machine import Machine
from tests.simulation.packets.packet_policy import Entries, index, why_denied
from tests.simulation.world import World
from tests.support.policy_twin import CLUSTER, NAMESPACE, NAMESPACE_LABELS, PROTOCOLS, Packet, Twin, Who

KINDS: Final = (CNP, CCNP, NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES)
FLOWS: Final = ((6, 8080), (6, 9090), (17, 53))
OUTSIDE: Final = ("198.51.100.7", "198.51.100.9", "203.0.113.3")
SETTLED_S: Final = 8.0
NOBODY: Final = "192.0.2.255/32"
"""What a rule by a group without networks means: an address that nobody asks about."""
SERVICE_ACCOUNT: Final = "io.cilium.k8s.policy.serviceaccount"
WORLD: Final = 2


class Question(NamedTuple):
    """One packet of one pod, which it sends or receives."""

    pod: str
    direction: Direction
    peer: str
    protocol: int
    port: int

    def __str__(self) -> str:
        return f"{self.direction.name.lower()} of {self.pod} with {self.peer} on {self.protocol}/{self.port}"


@kept(lambda cluster: cluster.kube.store.changed(*KINDS, CIDR_GROUPS))
def policies_in_force(cluster: Cluster) -> list[KubeObject]:
    """Documents as the twin reads them: valid, and with the networks of groups in place of their names."""
    groups = {g["metadata"]["name"]: g["spec"]["externalCIDRs"] for g in cluster.kube.objects(CIDR_GROUPS)}
    found = [document for kind in KINDS for document in cluster.kube.objects(kind)]
    return [_with_networks(document, groups) for document in found if document["metadata"]["name"] != BROKEN]


def check_policies(world: World) -> Iterable[str]:
    """Every pod of every node, with every pod that the node hears of and some addresses outside."""
    for cluster, node in world.nodes():
        packets = Packets(node)
        for question, is_allowed in ask(world, cluster, node):
            if is_allowed != packets.pass_(question):
                said = "denied" if is_allowed else "let through"
                yield f"{node.name}: {question} is {said}, and its policies say the opposite"


class SettledVerdicts:
    """What a node denied as its policies say, while nothing failed, it never lets through as long as nothing that policies
    look at is changed: whatever happens to programs, stores, links and API servers. Looks after every turn of the loop in which
    a map was written.
    """

    def __init__(self, world: World) -> None:
        self._world, self._opened, self._due = world, list[str](), set[str]()
        for _, node in world.nodes():
            maps = node.machine.maps
            for each in (maps.policy, maps.ipcache, maps.endpoints_by_address):
                node.machine.listen(each, partial(self._written_on, node))
        self._calm = Calm(world)
        self._version: object = None
        self._since_s = 0.0
        self._denied: dict[str, frozenset[Question]] = {}

    def __call__(self, world: World) -> Iterable[str]:
        opened, self._opened = self._opened, []
        yield from opened
        self._calm.look(world)
        now = version(world)
        if now != self._version:
            self._version, self._since_s, self._denied = now, world.now(), {}
        is_settled = world.now() - max(self._since_s, self._calm.since_s) >= SETTLED_S
        for cluster, node in world.nodes():
            denied = self._denied.get(node.name)
            if denied is None and is_settled:
                packets = Packets(node)
                questions = ask(world, cluster, node)
                self._denied[node.name] = frozenset(
                    q for q, allowed in questions if not allowed and not packets.pass_(q)
                )

    def _written_on(self, node: Node, _key: object) -> None:
        if node.name not in self._due and self._denied.get(node.name):
            self._due.add(node.name)
            self._world.loop.call_soon(self._look, node, context=Context())

    def _look(self, node: Node) -> None:
        self._due.discard(node.name)
        packets = Packets(node)
        opened = sorted(q for q in self._denied.get(node.name, ()) if packets.pass_(q))
        if opened and version(self._world) == self._version:
            self._opened += [
                f"{node.name}: {question} is let through, which was denied and is denied by the same policies"
                for question in opened
            ]


class Packets:
    """What the maps of a node say of packets, as they are now."""

    def __init__(self, node: Node) -> None:
        self._maps, self._entries = node.machine.maps, entries_of(node.machine)

    def pass_(self, question: Question) -> bool:
        """Whether policies let it through; a pod that the maps do not know is not spoken for."""
        subject = self._maps.endpoints_by_address.get(AddressKey(question.pod))
        if subject is None:
            return False
        port = question.port
        peer = self._identity(question.peer)
        return why_denied(self._entries, subject, question.direction, peer, question.protocol, port) is None

    def _identity(self, address: str) -> int:
        local = self._maps.endpoints_by_address.get(AddressKey(address))
        known = local or self._maps.ipcache.get(IpcacheKey(address))
        return known.identity if known is not None else WORLD


@kept(lambda machine: machine.maps.policy.writes)
def entries_of(machine: Machine) -> Entries:
    """What the policy map of a node holds now."""
    return index(machine.maps)


def ask(world: World, cluster: Cluster, node: Node) -> Iterator[tuple[Question, bool]]:
    """Packets of every pod of the node with every pod that it hears of, and what the documents say of each."""
    documents = policies_in_force(cluster)
    own = dict(pods_as_peers(cluster))
    theirs = {
        a: who for name in sorted(cluster.peers) for a, who in pods_as_peers(world.clusters[name], is_abroad=True)
    }
    peers = {**own, **theirs, **{a: Who(("reserved:world=",), a) for a in OUTSIDE}}
    twin = Twin(cluster.name, cluster.name, documents, [*own.values(), *theirs.values()])
    answers: dict[tuple[Any, ...], bool] = {}
    for pod in (a for a in own if a in node.machine.interfaces):
        for address, peer in peers.items():
            for direction in Direction:
                for protocol, port in FLOWS:
                    key = (own[pod], peer, direction, protocol, port)
                    if key not in answers:
                        answers[key] = (
                            not documents
                            or twin.decide(Packet(direction.name.lower(), *key[:2], protocol, port)).allowed
                        )
                    yield Question(pod, direction, address, protocol, port), answers[key]


def is_denied(world: World, client: str, server: str, port: int) -> bool:
    """Whether policies of either pod's cluster deny a TCP connection between two pods, by their addresses."""
    for subject, peer, word in ((client, server, "egress"), (server, client, "ingress")):
        home = next(cluster for cluster in world.clusters.values() if subject in dict(pods_as_peers(cluster)))
        known = {a: who for cluster in world.clusters.values() for a, who in pods_as_peers(cluster)}
        twin = Twin(home.name, home.name, policies_in_force(home), list(known.values()))
        if not twin.decide(Packet(word, known[subject], known[peer], 6, port)).allowed:
            return True
    return False


def pods_as_peers(cluster: Cluster, *, is_abroad: bool = False) -> Iterator[tuple[str, Who]]:
    """Pods by address, as other pods' policies see them; `is_abroad`: as other clusters do."""
    yield from ((address, who) for address, who, is_told in _all_as_peers(cluster) if is_told or not is_abroad)


@kept(lambda cluster: cluster.kube.store.changed(PODS, SPACES))
def _all_as_peers(cluster: Cluster) -> list[tuple[str, Who, bool]]:
    """Pods by address, and whether other clusters hear of them."""
    peers = []
    for pod in truth.pods(cluster):
        meta, spec = pod["metadata"], pod["spec"]
        if pod["spec"]["nodeName"] not in cluster.nodes:
            continue
        labels = [f"k8s:{key}={value}" for key, value in (meta.get("labels") or {}).items()]
        labels += [f"k8s:{NAMESPACE}={meta['namespace']}", f"k8s:{CLUSTER}={cluster.name}"]
        labels += [f"k8s:{SERVICE_ACCOUNT}={spec.get('serviceAccountName') or 'default'}"]
        found = cluster.kube.store.get(SPACES, meta["namespace"]) or {"metadata": {}}
        labels += [f"k8s:{NAMESPACE_LABELS}{k}={v}" for k, v in (found["metadata"].get("labels") or {}).items()]
        ports = [port for container in spec["containers"] for port in container.get("ports") or []]
        named = tuple((p["name"], (p["containerPort"], PROTOCOLS[p["protocol"]])) for p in ports)
        is_told = truth.is_global_namespace(cluster, meta["namespace"])
        peers.append((pod["status"]["podIP"], Who(tuple(sorted(labels)), ports=named), is_told))
    return peers


@kept(lambda cluster: cluster.kube.store.changed(*KINDS, CIDR_GROUPS, PODS, SPACES))
def selected(cluster: Cluster) -> set[str]:
    """Addresses of the pods that some document is about."""
    documents = policies_in_force(cluster)
    twin = Twin(cluster.name, cluster.name, documents)
    return {a for a, who in pods_as_peers(cluster) if any(_is_about(twin, document, who) for document in documents)}


def _is_about(twin: Twin, document: KubeObject, who: Who) -> bool:
    spec, namespace = document["spec"], document["metadata"].get("namespace", "")
    if namespace and namespace not in who.values("k8s", NAMESPACE):
        return False
    if document["kind"] == CLUSTER_NETWORK_POLICIES.kind:
        return any(twin.is_about(document, Packet(word, who, who, 6, 1)) for word in ("ingress", "egress"))
    is_kubernetes = document["kind"] == NETWORK_POLICIES.kind
    selector = spec.get("podSelector" if is_kubernetes else "endpointSelector") or {}
    return twin.selects(selector, who, "k8s" if is_kubernetes else "any")


def _with_networks(document: KubeObject, groups: dict[str, list[str]]) -> KubeObject:
    """A rule by group is one by networks; a group that is not there has none."""
    spec = dict(document["spec"])
    for section in ("ingress", "ingressDeny", "egress", "egressDeny"):
        if section in spec:
            spec[section] = [_rule_with_networks(rule, groups) for rule in spec[section]]
    return {**document, "spec": spec}


def _rule_with_networks(rule: dict[str, Any], groups: dict[str, list[str]]) -> dict[str, Any]:
    made = dict(rule)
    for word in ("fromCIDRSet", "toCIDRSet"):
        if word in rule:
            networks = [n for entry in rule[word] for n in groups.get(entry["cidrGroupRef"], ())]
            made[word] = [{"cidr": network} for network in networks] or [{"cidr": NOBODY}]
    return made


def version(world: World) -> object:
    """Different whenever somebody changed anything that policies look at."""
    return [(sorted(cluster.peers), _looked_at(cluster)) for cluster in world.clusters.values()]


@kept(lambda cluster: cluster.kube.store.changed(*KINDS, CIDR_GROUPS, PODS, SPACES))
def _looked_at(cluster: Cluster) -> list[str]:
    documents = [d for k in (*KINDS, CIDR_GROUPS) for d in cluster.kube.objects(k)]
    found = [d["metadata"]["name"] + repr(d["spec"]) for d in documents]
    return found + [each["metadata"]["resourceVersion"] for k in (PODS, SPACES) for each in cluster.kube.objects(k)]
