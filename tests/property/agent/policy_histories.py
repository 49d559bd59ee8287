# SPDX-License-Identifier: Apache-2.0
"""Long random histories of the policy compiler's inputs, and the shortest part of one that still fails.

One seed gives one history on any machine. Documents come from small alphabets so that rules of several policies hold the
same selections; rules without an effective port, groups that come and go and identities that change labels are frequent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from kubernetes_histories import NAMESPACE_LABELS, kubernetes_spec
from tiered_histories import tiered_spec

from agent.fqdn.own_addresses import OwnAddresses
from agent.fqdn.selected_names import SelectedNames
from agent.identity.writer import IdentityWriter
from agent.policy.compiler import PolicyCompiler
from agent.policy.nodes import NodeFollower, NodeVerbs
from agent.tables import (
    AgentDB,
    Backend,
    BackendSet,
    ClaimOrigin,
    Endpoint,
    Identity,
    LabelledService,
    NamedPort,
    Node,
    NodeAddress,
    PeerHealth,
    Prefix,
    pack_labels,
)
from meshmodel.identity import is_of_nodes, is_reserved
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import PolicyContext, PolicyRef
from meshpolicy.peer import FqdnSelector
from meshpolicy.range_shares import KEPT_CLOSED, LIMITS, ShareLimits

Step = tuple[Any, ...]
NORTH, SOUTH = ClusterName("north"), ClusterName("south")
APPS, NAMESPACES = ("a", "b", "c"), ("one", "two")
CIDRS = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0", "::/0", "fd00::/8")
SERVICES = ("s1", "s2")
HOSTS, PATTERNS = ("a.example.", "b.example.", "c.d.example."), ("a.example", "*.example", "**.example", "*")
TOLD = ("192.0.2.7", "10.1.2.3", "198.51.100.1", "10.9.0.1")
BACKENDS = ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.9", "192.0.2.7")
GROUPS = ("g1", "g2", "g3")
_ALL: dict[str, Any] = {"endpointSelector": {}}
NUMBERS = (300, 301, 302, 303, 131_372)
KINDS = (
    *("policy",) * 6, *("tiered",) * 3, *("kubernetes",) * 2, "unkubernetes", "refused", "untiered", "host", "host", "unhost",
    "service", "service", "backends", "backends", "noservice", "drop", "drop", "group", "ungroup", "identity", "forget",
    "pod", "unpod", "ports", "node", "node", "nonode", "told", "told",
)  # fmt: skip
"""Of a step: as likely as it is often here."""


def history(seed: int, length: int) -> list[Step]:
    """The steps that a seed stands for."""
    return list(_steps(random.Random(seed), length))


def _steps(pick: random.Random, length: int) -> Iterator[Step]:
    for _ in range(length):
        kind = pick.choice(KINDS)
        name = (pick.choice(NAMESPACES), pick.choice("pqr"))
        match kind:
            case "policy" | "kubernetes":
                yield kind, *name, _spec(pick) if kind == "policy" else kubernetes_spec(pick)
            case "tiered" | "untiered" | "host" | "unhost":
                make = {"tiered": tiered_spec, "host": _host_spec}.get(kind)
                yield kind, pick.choice("tuv"), *([] if make is None else [make(pick)])
            case "drop" | "unkubernetes" | "refused":
                yield kind, *name
            case "group":
                yield kind, pick.choice(GROUPS), tuple(pick.sample(CIDRS, pick.randint(0, 3))), pick.choice(APPS)
            case "ungroup":
                yield kind, pick.choice(GROUPS)
            case "identity":
                yield (
                    kind,
                    pick.choice(NUMBERS),
                    pick.choice(APPS),
                    pick.choice(NAMESPACES),
                    pick.choice([NORTH, SOUTH]),
                    pick.choice(NAMESPACE_LABELS),
                )
            case "pod":
                yield kind, pick.randint(1, 4), pick.choice(NUMBERS), pick.choice([0, 80, 8080])
            case "forget" | "unpod":
                yield kind, pick.choice(NUMBERS) if kind == "forget" else pick.randint(1, 4)
            case "ports":
                yield kind, pick.randint(1, 4), pick.choice([0, 80, 8080])
            case "node" | "nonode":
                yield kind, pick.choice([NORTH, SOUTH]), pick.randint(1, 2), pick.choice(APPS), pick.choice(["", "x"])
            case _:
                yield _service_step(pick, kind)


def _service_step(pick: random.Random, kind: str) -> Step:
    if kind == "told":
        return kind, pick.choice(HOSTS), tuple(pick.sample(TOLD, pick.randint(0, 3)))
    name = (pick.choice(SERVICES), pick.choice(NAMESPACES))
    if kind == "service":
        return kind, *name, pick.choice(APPS), pick.random() < 0.5
    if kind == "backends":
        return kind, *name, pick.choice([NORTH, SOUTH]), tuple(pick.sample(BACKENDS, pick.randint(0, 3)))
    return kind, *name


def _spec(pick: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": _selector(pick)}
    for section in pick.sample(["ingress", "ingressDeny", "egress", "egressDeny"], pick.randint(1, 3)):
        spec[section] = [_rule(pick, section) for _ in range(pick.randint(1, 3))]
    if pick.random() < 0.2:
        spec["enableDefaultDeny"] = {pick.choice(["ingress", "egress"]): pick.random() < 0.5}
    return spec


def _host_spec(pick: random.Random) -> dict[str, Any]:
    """A spec about nodes; HTTP rules are refused there."""
    spec = _spec(pick)
    del spec["endpointSelector"]
    for rule in (rule for section in spec.values() if isinstance(section, list) for rule in section):
        for port in rule.get("toPorts", ()):
            port.pop("rules", None)
    return {"nodeSelector": _node_selector(pick), **spec}


def _selector(pick: random.Random) -> dict[str, Any]:
    return pick.choice(
        [{}, {"matchLabels": {"app": pick.choice(APPS)}}, {"matchLabels": {"k8s:app": pick.choice(APPS)}}]
    )


def _rule(pick: random.Random, section: str) -> dict[str, Any]:
    word = "from" if section.startswith("in") else "to"
    rule: dict[str, Any] = {}
    match pick.randrange(9 if section == "egress" else 8 if word == "to" else 6):
        case 6 | 7 | 8 as kind:
            rule.update(_services_or_names(pick, is_names=kind == 8))
        case 0 | 1:
            rule[f"{word}Endpoints"] = [_selector(pick) for _ in range(pick.randint(0, 2))]
        case 2:
            rule[f"{word}CIDR"] = pick.sample(CIDRS, pick.randint(0, 2))
        case 3:
            rule[f"{word}CIDRSet"] = [_group_peer(pick, name) for name in pick.sample(GROUPS, pick.randint(1, 3))]
        case 4 if pick.random() < 0.5:
            rule[f"{word}Entities"] = [pick.choice(["all", "world", "cluster", "host", "remote-node"])]
        case 4:
            rule[f"{word}Nodes"] = [_node_selector(pick) for _ in range(pick.randint(0, 2))]
        case _:
            pass
    match pick.randrange(7):
        case 0:
            rule["toPorts"] = [{"ports": []}]
        case 1:
            rule["toPorts"] = [{}]
        case 2:
            rule["icmps"] = [{"fields": []}]
        case 3:
            rule["toPorts"] = [{"ports": [{"port": pick.choice(["80", "http", "0"]), "protocol": "TCP"}]}]
        case 4 if not section.endswith("Deny"):
            rule["toPorts"] = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": _looked_into(pick, section)}]
        case _:
            pass
    return rule


def _group_peer(pick: random.Random, name: str) -> dict[str, Any]:
    """A group by its name or by its labels, some with an exception."""
    by_labels: dict[str, Any] = {"cidrGroupSelector": {"matchLabels": {"app": pick.choice(APPS)}}}
    peer: dict[str, Any] = {"cidrGroupRef": name} if pick.random() < 0.6 else by_labels
    return {**peer, "except": ["10.1.0.0/16"]} if pick.random() < 0.2 else peer


def _looked_into(pick: random.Random, section: str) -> dict[str, Any]:
    is_names = section == "egress" and pick.random() < 0.5
    return {"dns": [{"matchPattern": pick.choice(PATTERNS)}]} if is_names else {"http": [{"method": "GET"}]}


def _services_or_names(pick: random.Random, *, is_names: bool) -> dict[str, Any]:
    if is_names:
        return {"toFQDNs": [{"matchPattern": pattern} for pattern in pick.sample(PATTERNS, pick.randint(0, 2))]}
    return {"toServices": [_service(pick) for _ in range(pick.randint(1, 2))]}


def _node_selector(pick: random.Random) -> dict[str, Any]:
    tier = {"key": "tier", "operator": pick.choice(["Exists", "DoesNotExist"])}
    return pick.choice([{}, {"matchLabels": {"app": pick.choice(APPS)}}, {"matchExpressions": [tier]}])


def _service(pick: random.Random) -> dict[str, Any]:
    where = pick.choice([{}, {"namespace": pick.choice(NAMESPACES)}])
    if pick.random() < 0.5:
        return {"k8sService": {"serviceName": pick.choice(SERVICES), **where}}
    return {"k8sServiceSelector": {"selector": _selector(pick), **where}}


class World:
    """A compiler fed step by step; it remembers what is there now, to build another one from it."""

    def __init__(self, context: PolicyContext, ranges: ShareLimits = LIMITS) -> None:
        self.context, self.ranges = context, ranges
        self.db = AgentDB(NORTH, ClusterId(1), "n1")
        with self.db.write():
            self.db.peers.put(PeerHealth(SOUTH, ClusterId(2)))
        self.prefixes: dict[str, int] = {}
        self.nodes: dict[Any, int] = {}
        identities = IdentityWriter(self.db)
        verbs = NodeVerbs(
            identities.set_identity, identities.delete_identity, self._set_nodes, lambda: True, lambda: True
        )
        self.compiler = PolicyCompiler(
            self.db, self.context, self._set_prefixes, NodeFollower(self.db, verbs), range_limits=ranges
        )
        self.told: dict[str, tuple[str, ...]] = {}
        self._own = OwnAddresses(self.db)
        self._names = SelectedNames(self._own)
        self.compiler.names = self._take_names
        self.documents: dict[PolicyRef, dict[str, Any]] = {}
        self.own_node: Node | None = None

    def _set_prefixes(self, found: Any) -> None:
        self.prefixes = dict(found)

    def _set_nodes(self, found: Any) -> None:
        self.nodes = dict(found)

    def _take_names(self, selectors: frozenset[FqdnSelector]) -> Any:
        self._own.take()
        self._names.set_selectors(selectors)
        for address in TOLD:
            self._names.touch(address, [name for name, found in self.told.items() if address in found])
        return self._names.take()

    def take(self, step: Step) -> None:
        """One change, computed through."""
        match step:
            case ("policy", namespace, name, spec):
                self.set_document(_document("CiliumNetworkPolicy", namespace, name, spec))
            case ("tiered", name, spec):
                document = _document("ClusterNetworkPolicy", "", name, spec)
                self.set_document({**document, "apiVersion": "policy.networking.k8s.io/v1alpha2"})
            case ("kubernetes", namespace, name, spec):
                document = _document("NetworkPolicy", namespace, name, spec)
                self.set_document({**document, "apiVersion": "networking.k8s.io/v1"})
            case ("unkubernetes", namespace, name):
                self.remove(PolicyRef("NetworkPolicy", namespace, name))
            case ("refused", namespace, name):
                document = _document(
                    "CiliumNetworkPolicy", namespace, name, {**_ALL, "ingress": [{"fromEndpoint": []}]}
                )
                ref = PolicyRef("CiliumNetworkPolicy", namespace, name)
                assert not self.compiler.set_document(document, ref).is_valid
            case ("host", name, spec):
                self.set_document(_document("CiliumClusterwideNetworkPolicy", "", name, spec))
            case ("unhost", name):
                self.remove(PolicyRef("CiliumClusterwideNetworkPolicy", "", name))
            case ("untiered", name):
                self.remove(PolicyRef("ClusterNetworkPolicy", "", name))
            case ("drop", namespace, name):
                self.remove(PolicyRef("CiliumNetworkPolicy", namespace, name))
            case ("group", name, cidrs, app):
                group = _document("CiliumCIDRGroup", "", name, {"externalCIDRs": list(cidrs)})
                group["metadata"]["labels"] = {"app": app}
                self.set_document(group)
            case ("ungroup", name):
                self.remove(PolicyRef("CiliumCIDRGroup", "", name))
            case _:
                with self.db.write():
                    self._row(step)
        self.compiler.step()
        self.compiler.step()  # numbers of nodes that no address has any more are given up one step later

    def _row(self, step: Step) -> None:
        db = self.db
        match step:
            case ("identity", number, app, namespace, cluster, of_namespace):
                known = pod_labels({"app": app}, namespace, of_namespace, "default", cluster)
                db.identities.put(Identity(number, cluster, known))
            case ("told", name, addresses):
                self.told[name] = addresses
            case ("forget", number):
                db.identities.delete(number)
            case ("pod", index, number, port):
                ports = (NamedPort("http", port, "TCP"),) if port else ()
                db.endpoints.put(Endpoint(f"10.9.0.{index}", index, index, "", "", number, "one", f"p{index}", ports))
            case ("node", cluster, index, app, tier):
                labels = {"app": app} | ({"tier": tier} if tier else {})
                address = NodeAddress("InternalIP", f"172.18.{len(cluster)}.{index}")
                number = ClusterId(1 if cluster == NORTH else 2)
                row = Node(cluster, number, f"n{index}", (address,), (), packed_labels=pack_labels(labels))
                db.nodes.put(row)
                self.own_node = row if (cluster, row.name) == (db.own, db.node_name) else self.own_node
            case ("nonode", cluster, index, _, _):
                db.nodes.delete((cluster, f"n{index}"))
            case ("unpod", index):
                db.endpoints.delete(f"10.9.0.{index}")
            case ("ports", index, port):
                ports = (NamedPort("http", port, "TCP"),) if port else ()
                number = 6 if index == 4 else 300 if port else 301
                db.prefixes.put(
                    Prefix(f"10.9.0.{index}/32", number, "", NORTH, ClusterId(1), ClaimOrigin.POD, named_ports=ports)
                )
            case ("service", name, namespace, app, is_global):
                db.labelled_services.put(LabelledService(ServiceName(namespace, name), (("app", app),), is_global))
            case ("noservice", name, namespace):
                db.labelled_services.delete(ServiceName(namespace, name))
            case ("backends", name, namespace, cluster, addresses):
                backends = tuple(Backend(address, 80, "TCP") for address in addresses)
                db.backends.put(BackendSet(ServiceName(namespace, name), cluster, ClusterId(1), backends))

    def set_document(self, document: dict[str, Any]) -> None:
        meta = document["metadata"]
        ref = PolicyRef(document["kind"], meta.get("namespace", ""), meta["name"])
        row = self.compiler.set_document(document, ref)
        assert row.is_valid or row.message.startswith(KEPT_CLOSED), row.message
        self.documents[ref] = document

    def remove(self, ref: PolicyRef) -> None:
        self.compiler.remove_document(ref)
        self.documents.pop(ref, None)

    def rebuilt(self) -> World:
        """The same inputs, given at once and in another order."""
        other = World(self.context, self.ranges)
        if self.own_node is not None:  # what the agent once read of its own node stays, also when the record is gone
            with other.db.write():
                other.db.nodes.put(self.own_node)
            other.compiler.step()
            with other.db.write():
                other.db.nodes.delete((self.own_node.cluster, self.own_node.name))
        other.told = dict(self.told)
        for ref in sorted(self.documents, reverse=True):
            other.set_document(self.documents[ref])
        with other.db.write():
            for table, rows in (
                (other.db.identities, [row for row in self.db.identities.rows() if is_of_cluster(row.id)]),
                (other.db.nodes, self.db.nodes.rows()),
                (other.db.endpoints, self.db.endpoints.rows()),
                (other.db.prefixes, self.db.prefixes.rows()),
                (other.db.labelled_services, self.db.labelled_services.rows()),
                (other.db.backends, self.db.backends.rows()),
            ):
                for row in rows:
                    table.put(row)  # type: ignore[arg-type]
        other.compiler.step()
        other.compiler.step()
        return other

    def enforced(self) -> dict[str, tuple[bool, bool, dict[Any, Any]]]:
        """What each endpoint of the node enforces, as its maps would hold it."""
        return {
            row.endpoint.address: (row.policy.ingress_enforced, row.policy.egress_enforced, dict(row.policy.entries))
            for row in self.db.verdicts.rows()
        }

    def kept_closed(self) -> list[PolicyRef]:
        """The policies and groups without room for their ranges."""
        shares = self.compiler._shares
        return sorted(ref for ref in self.documents if shares.excess(ref))


def is_of_cluster(number: int) -> bool:
    """Told by a cluster, not made here for nodes."""
    return not is_of_nodes(number) and not is_reserved(number)


def _document(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"namespace": namespace, "name": name} if namespace else {"name": name}
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": meta, "spec": spec}


def shortest(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """A part of the history, in order, that still fails and of which no single step can be left out."""
    size = max(1, len(steps) // 2)
    while True:
        start, was_cut = 0, False
        while start < len(steps):
            rest = steps[:start] + steps[start + size :]
            if fails(rest):
                steps, was_cut = rest, True
            else:
                start += size
        if size == 1 and not was_cut:
            return steps
        size = max(1, size // 2)
