# SPDX-License-Identifier: Apache-2.0
"""A policy compiler with its tables, changed step by step as histories say, and the same one started anew."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from agent.fqdn.own_addresses import OwnAddresses
from agent.fqdn.selected_names import SelectedNames
from agent.identity.writer import IdentityWriter
from agent.policy.compiler import PolicyCompiler
from agent.policy.nodes import NodeFollower, NodeVerbs
from agent.policy.ranges import WriteProgress
from agent.tables import (
    THE_NODE,
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
from meshpolicy import PolicyContext, PolicyRef, differences
from meshpolicy.peer import FqdnSelector
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.range_shares import KEPT_CLOSED, LIMITS, ShareLimits
from meshpolicy.staged import STAGED_ANNOTATION

Step = tuple[Any, ...]
NORTH, SOUTH = ClusterName("north"), ClusterName("south")
TOLD = ("192.0.2.7", "10.1.2.3", "198.51.100.1", "10.9.0.1")
FAMILIES = ("IPv4", "both", "dual stack")
_ALL: Final[dict[str, Any]] = {"endpointSelector": {}}
_PEERS: Final = ((300, ""), (131_372, ""), (2, "192.0.2.7"), (2, "10.1.9.9"), (10, "fd00::7"), (1, ""))
_PORTS: Final = ((6, 80), (17, 53))
_CLUSTERWIDE: Final = {
    "unhost": "CiliumClusterwideNetworkPolicy",
    "untiered": "ClusterNetworkPolicy",
    "ungroup": "CiliumCIDRGroup",
}
_MOST_STEPS: Final = 12


def context_of(*, is_local: bool, families: str, has_proxies: bool) -> PolicyContext:
    """The settings of an agent."""
    ports = ProxyPorts() if has_proxies else None
    is_dual = families == "dual stack"
    return PolicyContext(NORTH, is_local, dual_stack=is_dual, ipv6=families == "both", proxy_ports=ports)


class World:
    """A compiler fed step by step; it remembers what is there now, to build another one from it.

    With `has_order` the compiler waits for what the kernel has: nothing new gets there while it is not `is_written`.
    """

    def __init__(self, context: PolicyContext, ranges: ShareLimits = LIMITS, *, has_order: bool = False) -> None:
        self.context, self.ranges, self.has_order = context, ranges, has_order
        self.is_written, self._has_begun, self._was_judged = True, False, False
        self.db = AgentDB(NORTH, ClusterId(1), "n1")
        with self.db.write():
            self.db.peers.put(PeerHealth(SOUTH, ClusterId(2)))
        self.prefixes: dict[str, int] = {}
        self.nodes: dict[Any, int] = {}
        identities = IdentityWriter(self.db)
        is_written = self._is_written
        verbs = NodeVerbs(identities.set_identity, identities.delete_identity, self._set_nodes, is_written, is_written)
        self.compiler = PolicyCompiler(
            self.db,
            self.context,
            self._set_prefixes,
            NodeFollower(self.db, verbs),
            progress=WriteProgress(lambda: self._has_begun, is_written, is_written) if has_order else None,
            range_limits=ranges,
        )
        self.told: dict[str, tuple[str, ...]] = {}
        self._own = OwnAddresses(self.db)
        self._names = SelectedNames(self._own)
        self.compiler.names = self._take_names
        self.documents: dict[PolicyRef, dict[str, Any]] = {}
        self.own_node: Node | None = None

    def _is_written(self) -> bool:
        return self.is_written or not self._has_begun

    @property
    def is_settled(self) -> bool:
        """Nothing waits for the kernel."""
        return self.is_written and not self.compiler.waits_for_verdicts

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

    def take(self, step: Step) -> World:
        """One change, computed through; returns what goes on."""
        if step[0] == "restart":
            return self.restarted(context_of(is_local=step[1], families=step[2], has_proxies=step[3]))
        if step[0] == "written":
            self.is_written = step[1] or not self.has_order
        elif not self._document_step(step):
            with self.db.write():
                self._row(step)
        self._settle()
        return self

    def _document_step(self, step: Step) -> bool:
        """Whether the step is about a document; it is taken then."""
        match step:
            case ("policy", namespace, name, spec, annotation):
                document = _document("CiliumNetworkPolicy", namespace, name, spec)
                if annotation:
                    document["metadata"]["annotations"] = {STAGED_ANNOTATION: annotation}
                self.set_document(document)
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
            case ("unhost" | "untiered" | "ungroup", name):
                self.remove(PolicyRef(_CLUSTERWIDE[step[0]], "", name))
            case ("drop", namespace, name):
                self.remove(PolicyRef("CiliumNetworkPolicy", namespace, name))
            case ("group", name, cidrs, app):
                group = _document("CiliumCIDRGroup", "", name, {"externalCIDRs": list(cidrs)})
                group["metadata"]["labels"] = {"app": app}
                self.set_document(group)
            case _:
                return False
        return True

    def _settle(self) -> None:
        """All steps that are due, and another: numbers of nodes that no address has any more are given up one step later."""
        self._has_begun = True
        self.compiler.step()
        for _ in range(_MOST_STEPS):
            is_last = self.is_settled or not self.is_written
            self.compiler.step()
            if is_last:
                return
        raise AssertionError("steps are due without end")

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
        if self._was_judged:
            other._know_node_as_judged()
        return self._give_to(other)

    def restarted(self, context: PolicyContext) -> World:
        """An agent with these settings that begins with the maps of this one."""
        other = World(context, self.ranges, has_order=self.has_order)
        other.own_node = self.db.nodes.get((self.db.own, self.db.node_name))
        if self.db.verdicts.get(THE_NODE.address) is not None:
            other._know_node_as_judged()
        other.compiler.restore_prefixes(self.prefixes)
        return self._give_to(other)

    def _know_node_as_judged(self) -> None:
        self._was_judged = True
        self.compiler.restore_node()

    def _give_to(self, other: World) -> World:
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
        other._settle()
        return other

    def enforced(self) -> dict[str, tuple[bool, bool, dict[Any, Any]]]:
        """What each endpoint of the node enforces, as its maps would hold it."""
        return {
            row.endpoint.address: (row.policy.ingress_enforced, row.policy.egress_enforced, dict(row.policy.entries))
            for row in self.db.verdicts.rows()
        }

    def staged(self) -> dict[Any, Any]:
        """What staged policies would decide about some packets, and in which directions they select each endpoint."""
        judge, found = self.compiler.staged.judge, dict[Any, Any]()
        for row in self.db.verdicts.rows() if self.compiler.staged.is_active else ():
            found[row.endpoint.address] = row.watched
            for direction in row.watched:
                for peer, port in product(_PEERS, _PORTS):
                    found[row.endpoint.address, direction, peer, port] = judge(row.endpoint, direction, peer, port)
        return found

    def faults(self) -> object:
        """Where an engine says something else than one with the same inputs, and what it failed on; empty if nothing."""
        staged = self.compiler.staged
        found = differences(self.compiler.engine)
        return found or dict(self.compiler.faults) or staged.fault

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
