# SPDX-License-Identifier: Apache-2.0
"""The policy engine behind a guard: a fault costs the one policy, identity or endpoint it happened with, kept closed.

A fault is an exception out of the engine that no document may cause. The engine that raised it is thrown away, since it
may be half changed, and built anew from the same inputs, with `meshpolicy.closed` in place of the policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from agent.policy.staged import StagedEngine
from meshkit.errors import MAXIMUM_TEXT
from meshmodel.identity import NumericIdentity, Reserved
from meshmodel.labels import Labels
from meshpolicy import (
    CidrGroup,
    DirectionPolicy,
    EndpointPolicy,
    Engine,
    Policy,
    PolicyChange,
    PolicyContext,
    PolicyRef,
    ServicePeers,
    closed,
    rebuild,
)
from meshpolicy.errors import EngineFaultError, TooManyEntriesError
from meshpolicy.host_guard import unknown_node_policy
from meshpolicy.port import NamedPorts
from meshpolicy.prefix import Cidr
from meshpolicy.reference import HOST_GUARD

log = logging.getLogger(__name__)

CLOSED: Final = EndpointPolicy(DirectionPolicy(enforced=True), DirectionPolicy(enforced=True))
"""Nothing is allowed in either direction."""


class GuardedEngine:
    """An engine that no input can break for the others. `faults` says what is kept closed and why."""

    def __init__(self, context: PolicyContext) -> None:
        self.engine = Engine(context)
        self.staged = StagedEngine(context)
        self.faults: dict[str, str] = {}
        self.rebuilds = 0
        """How often the engine was built anew; every result may differ after one."""
        self._own: set[PolicyRef] = set()
        self._closed_node: tuple[int, EndpointPolicy] | None = None  # by the revision of the engine

    def set_policy(self, policy: Policy) -> PolicyChange:
        """The policy is in force, or closed with a fault that `fault_of` tells."""
        self.faults.pop(str(policy.key), None)
        change = self._change(str(policy.key), lambda engine: engine.set_policy(policy), close=policy)
        return change._replace(affected=change.affected | self.staged.set_policy(policy, self.engine))

    def set_own(self, key: PolicyRef, policy: Policy | None) -> PolicyChange:
        """A policy that the agent makes itself is in force, or (None) is not; for keys that nobody else sets."""
        if policy is not None:
            self._own.add(key)
            return self.set_policy(policy)
        if key not in self._own:
            return PolicyChange(self.engine.revision, frozenset())
        self._own.discard(key)
        return self.remove_policy(key)

    def remove_policy(self, key: PolicyRef) -> PolicyChange:
        """Nothing of the policy is in force."""
        self.faults.pop(str(key), None)
        change = self._change(str(key), lambda engine: engine.remove_policy(key))
        return change._replace(affected=change.affected | self.staged.remove_policy(key, self.engine))

    def set_cidr_group(self, group: CidrGroup) -> PolicyChange:
        """The group is known; a policy that the engine fails on because of it is closed."""
        return self._change(f"group {group.name}", lambda engine: engine.set_cidr_group(group))

    def remove_cidr_group(self, name: str) -> PolicyChange:
        """The group is not known any more."""
        return self._change(f"group {name}", lambda engine: engine.remove_cidr_group(name))

    def set_services(self, services: Sequence[ServicePeers], gone: Sequence[tuple[str, str]]) -> PolicyChange:
        """These Services have these backends; a policy that the engine fails on because of them is closed."""
        return self._change("services", lambda engine: engine.set_services(services, gone))

    def set_identity(self, number: NumericIdentity, labels: Labels) -> PolicyChange:
        """The identity has these labels, or is unknown: no rule allows it anything."""
        return self._change(f"identity {number}", lambda engine: engine.set_identity(number, labels), without=number)

    def remove_identity(self, number: NumericIdentity) -> PolicyChange:
        """The identity is not known."""
        return self._change(f"identity {number}", lambda engine: engine.remove_identity(number), without=number)

    def set_pod_ports(self, pod: str, identity: NumericIdentity, ports: NamedPorts) -> PolicyChange:
        """The pod has this identity and defines these port names."""
        return self._change(f"ports of {pod}", lambda engine: engine.set_pod_ports(pod, identity, ports))

    def hold_prefixes(self, prefixes: frozenset[Cidr]) -> PolicyChange:
        """Exactly these address ranges have identities whether or not policies name them."""
        return self._change("address ranges", lambda engine: engine.hold_prefixes(prefixes))

    def set_names(self, names: Mapping[Cidr, frozenset[str]]) -> PolicyChange:
        """These addresses have these DNS names."""
        return self._change("names of addresses", lambda engine: engine.set_names(names))

    def endpoint_policy(self, number: NumericIdentity, ports: Mapping[str, tuple[int, int]]) -> EndpointPolicy:
        """What the endpoint enforces; closed in both directions if the engine fails to say, the node but for its guard."""
        try:
            policy = self.engine.endpoint_policy(number, ports)
        except TooManyEntriesError as exc:
            self.faults[_endpoint(number)] = f"kept closed: {exc}"
            return self._closed(number)
        except Exception as exc:  # one endpoint's fault stays its own
            self._note(_endpoint(number), exc)
            return self._closed(number)
        if self.faults:
            self.faults.pop(_endpoint(number), None)
        return policy

    def closed_because(self, number: NumericIdentity) -> str:
        """Why endpoints of this identity are closed, whatever their policies say; empty if they are not."""
        return self.faults.get(_endpoint(number), "")

    def closed_because_of_faults(self, owners: Iterable[tuple[str, int]]) -> dict[str, str]:
        """Of addresses with their identities those that are closed so, with the reason."""
        if not self.faults:
            return {}
        return {address: why for address, n in owners if (why := self.closed_because(NumericIdentity(n)))}

    def _closed(self, number: NumericIdentity) -> EndpointPolicy:
        """Nothing is allowed, but of the node what its guard says: whoever takes the policy away must reach it."""
        if number != NumericIdentity(Reserved.HOST):
            return CLOSED
        if self._closed_node is None or self._closed_node[0] != self.engine.revision:
            kept = (policy for policy in self.engine.policies() if policy.key == HOST_GUARD)
            alone = rebuild(self.engine, policies=(*kept, unknown_node_policy()))
            self._closed_node = self.engine.revision, alone.endpoint_policy(number, {})
        return self._closed_node[1]

    def forget_endpoint(self, number: NumericIdentity) -> None:
        """No endpoint has this identity any more."""
        self.faults.pop(_endpoint(number), None)
        self.engine.forget_endpoint(number)
        self.staged.forget_endpoint(number)

    def fault_of(self, key: PolicyRef) -> str:
        """Why the policy is closed; empty if it is not."""
        return self.faults.get(str(key), "")

    def _change(
        self,
        what: str,
        change: Callable[[Engine], PolicyChange],
        *,
        close: Policy | None = None,
        without: NumericIdentity | None = None,
    ) -> PolicyChange:
        self.staged.change(change)
        try:
            return change(self.engine)
        except Exception as exc:  # whatever it was, it costs one input
            self._note(what, exc)
        policies = {policy.key: policy for policy in self.engine.policies()}
        if close is not None:
            policies[close.key] = closed(close)
        self._rebuild(policies, () if without is None else (without,))
        return PolicyChange(self.engine.revision, frozenset(number for number, _ in self.engine.tracked()))

    def _rebuild(self, policies: dict[PolicyRef, Policy], without: tuple[NumericIdentity, ...]) -> None:
        """Another engine with these policies; those it fails on are closed, and left out if even that fails."""
        while True:
            try:
                self.engine = rebuild(self.engine, policies=policies.values(), without=without)
                self.rebuilds += 1
                self.staged.follow(self.engine)
                return
            except EngineFaultError as fault:
                self._note(str(fault.policy), fault.__cause__ or fault)
                failing = policies.pop(fault.policy)
                if failing != closed(failing):
                    policies[fault.policy] = closed(failing)

    def _note(self, what: str, exc: BaseException) -> None:
        self.faults[what] = f"internal error of the policy engine, kept closed: {exc!r}"[:MAXIMUM_TEXT]
        log.error("policy engine failed", extra={"policy": what, "error": self.faults[what]}, exc_info=exc)


def _endpoint(number: NumericIdentity) -> str:
    """How a fault names who has it."""
    return f"endpoint identity {number}"
