# SPDX-License-Identifier: Apache-2.0
"""Feeds policies, identities and endpoints to the engine, and writes what comes out as rows.

Everything is one synchronous step: what came in since the last one goes in, and what may differ is asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from agent.policy.guard import GuardedEngine
from agent.policy.nodes import NodeFollower
from agent.policy.services import ServiceResolver
from agent.tables import THE_NODE, AgentDB, Endpoint, EndpointVerdicts, Identity, NamedPort, PolicyRow
from meshkit.table import HistoryLostError
from meshmodel.identity import NumericIdentity
from meshpolicy import (
    EndpointPolicy,
    Engine,
    Policy,
    PolicyChange,
    PolicyContext,
    PolicyError,
    PolicyKind,
    PolicyRef,
    RuleOrigin,
    parse_cidr_group,
    parse_policy,
)
from meshpolicy.host_guard import GuardFacts, guard_policy, unknown_node_policy
from meshpolicy.port import PROTOCOL_NUMBERS
from meshpolicy.reference import HOST_GUARD, HOST_UNKNOWN

_UNKNOWN_NODE: Final = (
    "this node was judged by host policies and has no record with its labels any more: until it has one, only the guard "
    "lets anything in or out"
)

log = logging.getLogger(__name__)

Document = Mapping[str, object]
Outcome = PolicyRow


class PolicyCompiler:
    """Keeps the policies and verdicts tables; `set_prefixes` puts CIDR identities into the ipcache.

    Without `nodes` rules that name nodes by label select nobody, and deny every node.
    """

    def __init__(
        self,
        db: AgentDB,
        context: PolicyContext,
        set_prefixes: Callable[[Mapping[str, int]], None],
        nodes: NodeFollower | None = None,
        guard_facts: Callable[[], GuardFacts] = GuardFacts,
    ) -> None:
        self._db, self._context, self._set_prefixes = db, context, set_prefixes
        self._guard = GuardedEngine(context)
        self._services = ServiceResolver(db)
        self._nodes = nodes
        self._seen_rebuilds = 0
        self._affected: set[int] = set()
        self._prefixes_changed = False
        self._seen_identities = self._seen_endpoints = self._seen_prefixes = 0
        self._pods_with_ports: set[str] = set()
        self._by_identity: dict[int, set[str]] = {}
        self._identity_of: dict[str, int] = {}
        self._rules: dict[int, RuleOrigin | None] = {}
        self._in_force: set[PolicyRef] = set()
        self._of_hosts: set[PolicyRef] = set()
        self._guard_facts = guard_facts
        self._was_node_judged = False

    @property
    def engine(self) -> Engine:
        """The engine in force. To read only: changes go through the documents and tables."""
        return self._guard.engine

    def restore_node(self) -> None:
        """The maps judge this node: an earlier agent knew its labels, and that host policies select it."""
        self._was_node_judged = True

    def node_problems(self) -> list[str]:
        """Nodes that rules by label cannot tell apart, and that this node's own labels are not known."""
        found = [] if self._nodes is None else self._nodes.problems()
        return [*found, _UNKNOWN_NODE] if self._is_node_unknown() else found

    @property
    def waits_for_verdicts(self) -> bool:
        """Another step is due when what the last one computed is in the kernel."""
        return self._nodes is not None and self._nodes.is_moving

    @property
    def faults(self) -> Mapping[str, str]:
        """What is kept closed because the engine failed on it, with the reason."""
        return self._guard.faults

    # ---- policies

    def set_document(self, document: Document, ref: PolicyRef) -> PolicyRow:
        """The object is in force as it says, or refused whole; a mistake in an edit leaves the last valid form in force.

        Dropping that form would open what it closed. It does not outlive the agent: after a restart only the object speaks.
        """
        had_policies = self._has_policies()
        try:
            unenforced, warnings = self._load(document)
            self._in_force.add(ref)
            fault = self._guard.fault_of(ref)
            row = PolicyRow(
                *ref, is_valid=not fault, message=fault, problems=(*unenforced, *warnings), unenforced=unenforced
            )
        except PolicyError as exc:
            kept = "; the last valid form stays in force" if ref in self._in_force else ""
            row = PolicyRow(ref.kind, ref.namespace, ref.name, is_valid=False, message=f"{exc}{kept}")
        self._judge_unknown_again(had_policies=had_policies)
        with self._db.write():
            self._db.policies.put(row)
        return row

    def remove_document(self, ref: PolicyRef) -> None:
        """The object is gone and nothing of it is in force."""
        had_policies = self._has_policies()
        self._unload(ref)
        self._in_force.discard(ref)
        self._judge_unknown_again(had_policies=had_policies)
        with self._db.write():
            self._db.policies.delete((ref.kind, ref.namespace, ref.name))

    def rule_origin(self, number: int) -> RuleOrigin | None:
        """The policy rule that a map value names, None if it is none of ours."""
        if number not in self._rules:
            rules = (rule for policy in self.engine.policies() for rule in policy.rules)
            self._rules = {rule.origin.number: rule.origin for rule in rules}
        return self._rules.setdefault(number, None)

    # ---- steps

    def step(self) -> int:
        """Verdicts are what policies, identities and endpoints say now; returns how many endpoints were judged again."""
        if self._nodes is not None:
            self._nodes.follow(self.engine.node_keys())
        self._take_identities()
        self._take_ports()
        self._take_services()
        self._take_guard()
        changed = self._take_endpoints()
        if self._guard.rebuilds != self._seen_rebuilds:
            self._take_new_engine()
        addresses = {a for identity in self._affected for a in self._by_identity.get(identity, ())} | changed
        self._affected.clear()
        with self._db.write():
            if self._prefixes_changed:
                self._prefixes_changed = False
                self._set_prefixes(self.engine.prefixes())
            for address in sorted(addresses):
                endpoint = self._db.endpoints.get(address)
                if endpoint is None:
                    self._db.verdicts.delete(address)
                else:
                    self._db.verdicts.put(EndpointVerdicts(endpoint, self._policy_of(endpoint)))
            self._judge_node()
        if self._nodes is not None:
            self._nodes.move()
        return len(addresses)

    def _take_new_engine(self) -> None:
        """The engine was built anew after a fault: every result may differ, and policies may be closed."""
        self._seen_rebuilds = self._guard.rebuilds
        self._affected.update(self._by_identity)
        self._prefixes_changed = True
        self._rules.clear()
        with self._db.write():
            for row in list(self._db.policies.rows()):
                fault = self._guard.fault_of(PolicyRef(row.kind, row.namespace, row.name))
                if fault and row.is_valid:
                    self._db.policies.put(replace(row, is_valid=False, message=fault))

    def _take_guard(self) -> None:
        """The guard of the node is in force while a host policy is."""
        if self._of_hosts:
            self._note(self._guard.set_policy(guard_policy(self._guard_facts())))
        else:
            self._note(self._guard.remove_policy(HOST_GUARD))
        if self._is_node_unknown():
            self._note(self._guard.set_policy(unknown_node_policy()))
        else:
            self._note(self._guard.remove_policy(HOST_UNKNOWN))

    def _is_node_unknown(self) -> bool:
        """Which host policies select this node is not known, though some did: it is closed until its record is there."""
        return self._was_node_judged and bool(self._of_hosts) and not (self._nodes and self._nodes.knows_own_node)

    def _judge_node(self) -> None:
        """The node has verdicts while a host policy selects it."""
        known, number = self._db.verdicts.get(THE_NODE.address), NumericIdentity(THE_NODE.identity)
        policy = self._guard.endpoint_policy(number, {}) if self._of_hosts else EndpointPolicy()
        if not policy.ingress_enforced and not policy.egress_enforced:
            self.engine.forget_endpoint(number)
            self._db.verdicts.delete(THE_NODE.address)
        elif known is None or known.policy is not policy:
            self._db.verdicts.put(EndpointVerdicts(THE_NODE, policy))

    def _policy_of(self, endpoint: Endpoint) -> EndpointPolicy:
        """Without any policy an endpoint is not enforced, also while the labels of its identity are not known."""
        if self._db.identities.get(endpoint.identity) is None and not self._has_policies():
            return EndpointPolicy()
        return self._guard.endpoint_policy(NumericIdentity(endpoint.identity), named_ports(endpoint.named_ports))

    def _has_policies(self) -> bool:
        return any(ref.kind != PolicyKind.CIDR_GROUP for ref in self._in_force)

    def _judge_unknown_again(self, *, had_policies: bool) -> None:
        """Endpoints whose identity is unknown are denied while there is any policy, so that its coming and going counts."""
        if self._has_policies() != had_policies:
            self._affected.update(i for i in self._by_identity if self._db.identities.get(i) is None)

    def _load(self, document: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What of it is not enforced as written, and what else its author should know."""
        if document.get("kind") == PolicyKind.CIDR_GROUP:
            group = parse_cidr_group(document)
            self._note(self._guard.set_cidr_group(group))
            return (), group.problems
        policy: Policy = parse_policy(document, self._context)
        self._note(self._guard.set_policy(policy))
        (self._of_hosts.add if policy.is_host else self._of_hosts.discard)(policy.key)
        self._rules.clear()
        return policy.problems, policy.warnings

    def _unload(self, ref: PolicyRef) -> None:
        if ref.kind == PolicyKind.CIDR_GROUP:
            self._note(self._guard.remove_cidr_group(ref.name))
        else:
            self._of_hosts.discard(ref)
            self._note(self._guard.remove_policy(ref))

    def _note(self, change: PolicyChange) -> None:
        self._affected.update(change.affected)
        if change.prefixes_added or change.prefixes_removed:
            self._prefixes_changed = True

    def _take_identities(self) -> None:
        seen, self._seen_identities = self._seen_identities, self._db.identities.revision
        try:
            changes = [(c.row, c.deleted) for c in self._db.identities.changes_since(seen)]
        except HistoryLostError:
            log.warning("identities changed faster than policies were computed, reading all")
            changes = [(Identity(i, self._db.own, ()), True) for i in self._known_identities()]
            changes += [(row, False) for row in self._db.identities.rows()]
        for row, deleted in changes:
            number = NumericIdentity(row.id)
            if deleted:
                self._note(self._guard.remove_identity(number))
            else:
                self._note(self._guard.set_identity(number, row.labels))
            if row.id in self._by_identity:
                self._affected.add(row.id)

    def _take_services(self) -> None:
        """Who the backends of Services are, while a policy names some as peers."""
        changed, gone = self._services.take(wanted=self.engine.uses_services())
        if changed or gone:
            self._note(self._guard.set_services(changed, gone))

    def _take_ports(self) -> None:
        """Port names of all pods: egress rules mean those of each peer."""
        seen, self._seen_prefixes = self._seen_prefixes, self._db.prefixes.revision
        try:
            changes = [(c.key, None if c.deleted else c.row) for c in self._db.prefixes.changes_since(seen)]
        except HistoryLostError:
            changes = [(key, self._db.prefixes.get(key)) for key in self._pods_with_ports]
            changes += [(row.prefix, row) for row in self._db.prefixes.rows()]
        for key, row in changes:
            ports = row.named_ports if row is not None else ()
            if ports or key in self._pods_with_ports:
                identity = NumericIdentity(row.identity if row is not None else 0)
                self._note(self._guard.set_pod_ports(key, identity, named_ports(ports)))
                (self._pods_with_ports.add if ports else self._pods_with_ports.discard)(key)

    def _known_identities(self) -> list[int]:
        return [i for i in self._by_identity if self._db.identities.get(i) is None]

    def _take_endpoints(self) -> set[str]:
        """Addresses whose endpoint changed."""
        seen, self._seen_endpoints = self._seen_endpoints, self._db.endpoints.revision
        try:
            changed = {c.key for c in self._db.endpoints.changes_since(seen)}
        except HistoryLostError:
            changed = set(self._identity_of) | {row.address for row in self._db.endpoints.rows()}
        for address in changed:
            old, row = self._identity_of.get(address), self._db.endpoints.get(address)
            if row is not None and row.identity == old:
                continue
            if old is not None:
                del self._identity_of[address]
                self._leave(old, address)
            if row is not None:
                self._identity_of[address] = row.identity
                self._by_identity.setdefault(row.identity, set()).add(address)
        return changed

    def _leave(self, identity: int, address: str) -> None:
        users = self._by_identity[identity]
        users.discard(address)
        if not users:
            del self._by_identity[identity]
            self.engine.forget_endpoint(NumericIdentity(identity))


def named_ports(ports: tuple[NamedPort, ...]) -> dict[str, tuple[int, int]]:
    """A pod's port names as the engine takes them."""
    return {p.name: (p.port, PROTOCOL_NUMBERS.get(p.protocol, 0)) for p in ports}
