# SPDX-License-Identifier: Apache-2.0
"""Feeds policies, identities and endpoints to the engine, and writes what comes out as rows.

Everything is one synchronous step: what came in since the last one goes in, and what may differ is asked for again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain

from agent.datapath import spec
from agent.namespace_shares import NamespaceShares
from agent.policy.endpoint_identities import EndpointIdentities, named_ports
from agent.policy.guard import GuardedEngine
from agent.policy.identity_changes import IdentityChanges
from agent.policy.nodes import UNKNOWN_NODE, NodeFollower
from agent.policy.own_ranges import ENTRIES_PER_POD, own_ranges
from agent.policy.pod_ports import PodPortsFollower
from agent.policy.ranges import RangeOrder, WriteProgress
from agent.policy.rule_numbers import RuleNumbers
from agent.policy.services import ServiceResolver
from agent.policy.staged import StagedEngine
from agent.policy.verdict_rows import VerdictRows
from agent.tables import THE_NODE, AgentDB, Endpoint, EndpointVerdicts, PolicyRow
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
    closed,
    parse_cidr_group,
    parse_policy,
)
from meshpolicy.host_guard import GuardFacts, guard_policy, unknown_node_policy
from meshpolicy.peer import FqdnSelector
from meshpolicy.prefix import Cidr, parse_prefix
from meshpolicy.range_shares import KEPT_CLOSED, LIMITS, RangeShares, ShareLimits
from meshpolicy.reference import HOST_GUARD, HOST_UNKNOWN
from meshpolicy.rule import CidrGroup

Document = Mapping[str, object]
NameSource = Callable[[frozenset[FqdnSelector]], Mapping[Cidr, frozenset[str]]]


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
        *,
        progress: WriteProgress | None = None,
        range_limits: ShareLimits = LIMITS,
        entries_per_pod: int = ENTRIES_PER_POD,
        map_entries: int = spec.POLICY.max_entries,
    ) -> None:
        self._db, self._context, self._set_prefixes = db, context, set_prefixes
        self._guard = GuardedEngine(context)
        self._services = ServiceResolver(db)
        self._nodes = nodes
        self._seen_rebuilds = 0
        self._affected: set[int] = set()
        self._prefixes_changed = False
        self._identities = IdentityChanges(db)
        self._ports = PodPortsFollower(db, lambda *pod: self._note(self._guard.set_pod_ports(*pod)))
        self._endpoints = EndpointIdentities(db, self._guard.forget_endpoint)
        self._rules = RuleNumbers(lambda: self.engine)
        self._shares = RangeShares(range_limits)
        self._most_ranges = range_limits.on_their_way
        self._rows = VerdictRows(db, NamespaceShares(map_entries, entries_per_pod), self._judge, self._name_ranges)
        self._in_force: set[PolicyRef] = set()
        self._of_hosts: set[PolicyRef] = set()
        self._guard_facts = guard_facts
        self._was_node_judged = False
        self._ranges = RangeOrder(progress)
        self.names: NameSource = lambda _selectors: {}
        """Told the names that policies have, says which addresses have other labels of names since last time."""
        self._waiting: deque[tuple[PolicyRef, Policy | CidrGroup | None]] = deque()
        """What is to be in force, or (None) not any more, in the order in which it was said."""

    @property
    def engine(self) -> Engine:
        """The engine in force. To read only: changes go through the documents and tables."""
        return self._guard.engine

    @property
    def staged(self) -> StagedEngine:
        """What staged policies would decide. To read only, as the other."""
        return self._guard.staged

    def restore_prefixes(self, prefixes: Iterable[str]) -> None:
        """Addresses in these ranges have identities of an earlier agent's, also where no policy names them any more."""
        found = [parse_prefix(text) for text in prefixes]
        if found and self._ranges.leave(found):
            self._note(self._guard.hold_prefixes(self._ranges.held))

    def restore_node(self) -> None:
        """The maps judge this node: an earlier agent knew its labels, and that host policies select it."""
        self._was_node_judged = True

    def node_problems(self) -> list[str]:
        """Nodes that rules by label cannot tell apart, and that this node's own labels are not known."""
        found = [] if self._nodes is None else self._nodes.problems()
        return [*found, UNKNOWN_NODE] if self._is_node_unknown() else found

    @property
    def waits_for_verdicts(self) -> bool:
        """Another step is due when what the last one computed is in the kernel."""
        return (self._nodes is not None and self._nodes.is_moving) or self.waits_for_addresses

    @property
    def waits_for_addresses(self) -> bool:
        """Another step is due when addresses have been written, too."""
        return bool(self._ranges.held) or bool(self._waiting)

    def have_identities(self, prefixes: Iterable[Cidr]) -> bool:
        """Whether these addresses have their identities also in the kernel, as far as the last step knew."""
        return self._ranges.unready.isdisjoint(prefixes)

    @property
    def faults(self) -> Mapping[str, str]:
        """What is kept closed because the engine failed on it, with the reason."""
        return self._guard.faults

    def closed_endpoints(self) -> dict[str, str]:
        """By address the endpoints of this node, and the node, that are closed whatever their policies say, with the reason."""
        owners = ((a, n) for n in self._endpoints for a in self._endpoints.addresses([n]))
        return self._guard.closed_because_of_faults(chain(owners, [(THE_NODE.address, THE_NODE.identity)]))

    # ---- policies

    def set_document(self, document: Document, ref: PolicyRef) -> PolicyRow:
        """The object is in force as it says, or refused whole; a mistake in an edit leaves the last valid form in force.

        Dropping that form would open what it closed. It does not outlive the agent: after a restart only the object speaks.
        """
        had_policies = self._has_policies()
        try:
            unenforced, warnings, is_staged = self._load(document, ref)
            fault = self._fault_of(ref)
            problems = (*unenforced, *warnings)
            row = PolicyRow(*ref, not fault, fault, problems, () if is_staged else unenforced, is_staged)
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
        if self._waiting:
            self._waiting.append((ref, None))
        else:
            self._unload(ref)
        self._put_again(self._shares.remove(ref), {})
        self._judge_unknown_again(had_policies=had_policies)
        with self._db.write():
            self._db.policies.delete((ref.kind, ref.namespace, ref.name))

    def rule_origin(self, number: int) -> RuleOrigin | None:
        """The policy rule that a map value names, None if it is none of ours."""
        return self._rules.origin(number)

    # ---- steps

    def step(self) -> int:
        """Verdicts are what policies, identities and endpoints say now; returns how many endpoints were judged again."""
        self._move_ranges()
        self._take_services()  # first, since a policy that is closed for them asks for no keys of nodes
        if self._nodes is not None:
            self._nodes.follow(self.engine.node_keys())
        self._take_identities()
        self._ports.take()
        self._take_names()
        self._take_guard()
        changed = self._endpoints.take()
        if self._guard.rebuilds != self._seen_rebuilds:
            self._take_new_engine()
        addresses = self._endpoints.addresses(self._affected) | changed
        self._affected.clear()
        with self._db.write():
            if self._prefixes_changed:
                self._prefixes_changed = False
                hidden = {str(prefix) for prefix in self._ranges.hidden}
                self._set_prefixes({p: n for p, n in self.engine.prefixes().items() if p not in hidden})
            self._judge_node()
            self._rows.write(addresses)
        self._ranges.note_verdicts()
        if self._nodes is not None:
            self._nodes.move()
        return len(addresses)

    def _take_new_engine(self) -> None:
        """The engine was built anew after a fault: every result may differ, and policies may be closed."""
        self._seen_rebuilds = self._guard.rebuilds
        self._affected.update(self._endpoints)
        self._prefixes_changed = True
        self._rules.clear()
        with self._db.write():
            for row in list(self._db.policies.rows()):
                fault = self._guard.fault_of(PolicyRef(row.kind, row.namespace, row.name))
                if fault and row.is_valid:
                    self._db.policies.put(replace(row, is_valid=False, message=fault))

    def _take_guard(self) -> None:
        """The guard of the node is in force while a host policy is."""
        self._note(self._guard.set_own(HOST_GUARD, guard_policy(self._guard_facts()) if self._of_hosts else None))
        self._note(self._guard.set_own(HOST_UNKNOWN, unknown_node_policy() if self._is_node_unknown() else None))

    def _is_node_unknown(self) -> bool:
        """Which host policies select this node is not known, though some did: it is closed until its record is there."""
        return self._was_node_judged and bool(self._of_hosts) and not (self._nodes and self._nodes.knows_own_node)

    def _judge_node(self) -> None:
        """The node has verdicts while a host policy selects it."""
        known, number = self._db.verdicts.get(THE_NODE.address), NumericIdentity(THE_NODE.identity)
        policy = self._guard.endpoint_policy(number, {}) if self._of_hosts else EndpointPolicy()
        if not policy.ingress_enforced and not policy.egress_enforced:
            self._guard.forget_endpoint(number)
            self._db.verdicts.delete(THE_NODE.address)
        elif known is None or known.policy is not policy:
            self._db.verdicts.put(EndpointVerdicts(THE_NODE, policy))

    def _judge(self, endpoint: Endpoint) -> EndpointVerdicts:
        number = NumericIdentity(endpoint.identity)
        return EndpointVerdicts(endpoint, self._policy_of(endpoint), self.staged.directions(number))

    def _name_ranges(self, row: EndpointVerdicts, most: int) -> frozenset[int]:
        return own_ranges(self.engine, NumericIdentity(row.endpoint.identity), row.policy, most)

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
            self._affected.update(self._endpoints.unknown())

    def _load(self, document: Document, ref: PolicyRef) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        """What of it is not enforced as written, what else its author should know, and whether it is staged.

        It is in force, or will be when addresses have the identities of the ranges that it names.
        """
        if document.get("kind") == PolicyKind.CIDR_GROUP:
            group = parse_cidr_group(document)
            self._put_again({*self._shares.set_group(group), ref}, {ref: group})
            return (), group.problems, False
        item = parse_policy(document, self._context)
        self._put_again({*self._shares.set_policy(item, self.engine.services()), ref}, {ref: item})
        return item.problems, item.warnings, item.is_staged

    def _put(self, item: Policy | CidrGroup, ref: PolicyRef) -> None:
        """It is in force after what came before it. What is kept closed names no range, so that it waits for nothing."""
        if self._shares.excess(ref):
            self._waiting = deque(entry for entry in self._waiting if entry[0] != ref)
            self._enforce(replace(item, prefixes=()) if isinstance(item, CidrGroup) else closed(item), ref)
            return
        must_wait = self._ranges.has_order and self._await_ranges(item, is_first=not self._waiting)
        if must_wait or self._waiting:
            self._waiting.append((ref, item))
        else:
            self._enforce(item, ref)

    def _put_again(self, refs: Iterable[PolicyRef], written: Mapping[PolicyRef, Policy | CidrGroup]) -> None:
        """These are written anew, or are kept closed now for the ranges that they name, or are not any more."""
        for ref in self._shares.closing_first(refs):
            item = written.get(ref) or self._shares.item(ref)
            if item is not None:
                self._put(item, ref)
                self._note_fault(ref)

    def _fault_of(self, ref: PolicyRef) -> str:
        return self._guard.fault_of(ref) or self._shares.excess(ref)

    def _await_ranges(self, item: Policy | CidrGroup, *, is_first: bool) -> bool:
        """Whether addresses have not all of its ranges yet; those are on their way then.

        While so many are that pods might find no room among the addresses, that begins when it is the first that waits.
        """
        ranges, known = self.engine.ranges_of(item), self.engine.known_prefixes()
        missing = [prefix for prefix in ranges if prefix not in known]
        if not missing and self._ranges.unready.isdisjoint(ranges):
            return False
        if is_first or len(known) + len(missing) <= self._most_ranges:
            self._ranges.arrive(ranges, known)
            self._note(self._guard.hold_prefixes(self._ranges.held))
        return True

    def _enforce(self, item: Policy | CidrGroup, ref: PolicyRef) -> None:
        if isinstance(item, CidrGroup):
            self._note(self._guard.set_cidr_group(item))
        else:
            self._note(self._guard.set_policy(item))
            (self._of_hosts.add if item.is_host and not item.is_staged else self._of_hosts.discard)(item.key)
            self._rules.clear()
        is_staged = isinstance(item, Policy) and item.is_staged
        (self._in_force.discard if is_staged else self._in_force.add)(ref)

    def _unload(self, ref: PolicyRef) -> None:
        if ref.kind == PolicyKind.CIDR_GROUP:
            self._note(self._guard.remove_cidr_group(ref.name))
        else:
            self._of_hosts.discard(ref)
            self._note(self._guard.remove_policy(ref))
        self._in_force.discard(ref)

    def _note(self, change: PolicyChange) -> None:
        self._affected.update(change.affected)
        if change.prefixes_added or change.prefixes_removed:
            self._prefixes_changed = True
        gone = [parse_prefix(text) for text in change.prefixes_removed]
        if gone and self._ranges.leave(gone):
            self._affected.update(self._guard.hold_prefixes(self._ranges.held).affected)

    def _move_ranges(self) -> None:
        """Ranges get and lose their addresses as far as the kernel is; documents whose ranges have theirs are in force."""
        if not self.waits_for_addresses:
            return
        self._prefixes_changed |= self._ranges.advance()
        had_policies = self._has_policies()
        while self._waiting:
            ref, item = self._waiting[0]
            if item is None:
                self._unload(ref)
            elif self._await_ranges(item, is_first=True):
                break
            else:
                self._enforce(item, ref)
                self._note_fault(ref)
            self._waiting.popleft()
        self._judge_unknown_again(had_policies=had_policies)
        awaited = frozenset[Cidr]().union(
            *(self.engine.ranges_of(item) for _, item in self._waiting if item is not None)
        )
        self._ranges.keep(frozenset(p for p in self._ranges.held if self.engine.is_named(p)), awaited)
        if self._ranges.held != self.engine.held_prefixes():
            self._affected.update(self._guard.hold_prefixes(self._ranges.held).affected)
            self._prefixes_changed = True

    def _note_fault(self, ref: PolicyRef) -> None:
        """The row says why the policy is kept closed, or that it is not any more; what is wrong with an edit stays."""
        fault, row = self._fault_of(ref), self._db.policies.get((ref.kind, ref.namespace, ref.name))
        if row is not None and row.message != fault and (row.is_valid or row.message.startswith(KEPT_CLOSED)):
            with self._db.write():
                self._db.policies.put(replace(row, is_valid=not fault, message=fault))

    def _take_identities(self) -> None:
        changes = self._identities.take(lambda: [*self._endpoints, *self.engine.identities()])
        for row, deleted in changes:
            number = NumericIdentity(row.id)
            if deleted:
                self._note(self._guard.remove_identity(number))
            else:
                self._note(self._guard.set_identity(number, row.labels))
            if row.id in self._endpoints:
                self._affected.add(row.id)

    def _take_services(self) -> None:
        """Who the backends of Services are, while a policy names some as peers."""
        is_used = self.engine.uses_services() or self.staged.uses_services or self._shares.uses_services
        changed, gone = self._services.take(wanted=is_used)
        if changed or gone:
            self._note(self._guard.set_services(changed, gone))
            for policy in self._shares.with_services():
                self._put_again(self._shares.set_policy(policy, self.engine.services()), {})

    def _take_names(self) -> None:
        """Addresses that policies mean by names; verdicts know them before an address has its identity."""
        changed = self.names(self.engine.name_selectors() | self.staged.name_selectors)
        if changed and self._ranges.has_order:
            self._ranges.arrive((prefix for prefix, keys in changed.items() if keys), self.engine.known_prefixes())
            self._note(self._guard.hold_prefixes(self._ranges.held))
        if changed:
            self._note(self._guard.set_names(changed))
