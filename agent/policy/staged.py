# SPDX-License-Identifier: Apache-2.0
"""What would be decided if the staged policies were in force, too. They change nothing that is enforced. Pure.

A second engine gets what the one in force gets, while there is a staged policy. What it fails on costs that engine only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.policy.endpoint_identities import named_ports
from agent.tables import Endpoint
from meshkit.errors import MAXIMUM_TEXT
from meshmodel.identity import LOCAL_SCOPE_CIDR, NumericIdentity, Reserved, world_of
from meshpolicy import Direction, Engine, Policy, PolicyChange, PolicyContext, PolicyRef, RuleOrigin, rebuild
from meshpolicy.errors import TooManyEntriesError
from meshpolicy.peer import FqdnSelector
from meshpolicy.prefix import Cidr, parse_address, parse_prefix
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.staged import StagedDecision

_NOBODY: Final[frozenset[NumericIdentity]] = frozenset()
_NO_DIRECTION: Final[frozenset[Direction]] = frozenset()
_OUTSIDE: Final = (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6)
_SCOPE: Final = ~0xFFFFFF


class StagedEngine:
    """The enforced policies and the staged ones in one engine, while there is a staged one."""

    def __init__(self, context: PolicyContext) -> None:
        ports = None if context.proxy_ports is None else ProxyPorts(context.proxy_ports.kinds)
        self._context = replace(context, with_staged=True, proxy_ports=ports)
        self._policies: dict[PolicyRef, Policy] = {}
        self._engine: Engine | None = None
        self._ranges: tuple[int, dict[Cidr, int], list[int]] = (-1, {}, [])
        self._fault = ""
        self._too_large: dict[NumericIdentity, str] = {}

    @property
    def fault(self) -> str:
        """Why staged policies are not judged, or what they would close; empty if neither, or if there are none."""
        return self._fault or next(iter(self._too_large.values()), "")

    @property
    def uses_services(self) -> bool:
        """A staged policy names a Service as a peer."""
        return any(policy.services for policy in self._policies.values())

    @property
    def name_selectors(self) -> frozenset[FqdnSelector]:
        """The DNS names that staged policies have as peers."""
        return frozenset[FqdnSelector]().union(*(policy.names for policy in self._policies.values()))

    def set_policy(self, policy: Policy, enforced: Engine) -> frozenset[NumericIdentity]:
        """The policy is staged, or is not any more; returns the endpoint identities that this may concern."""
        if not policy.is_staged:
            return self.remove_policy(policy.key, enforced)
        self._policies[policy.key] = policy
        if self._engine is None:
            self.follow(enforced)
        return frozenset(number for number, _ in enforced.tracked())

    def remove_policy(self, key: PolicyRef, enforced: Engine) -> frozenset[NumericIdentity]:
        """No policy of this key is staged; returns the endpoint identities that this may concern."""
        if self._policies.pop(key, None) is None:
            return _NOBODY
        if not self._policies:
            self._engine, self._fault = None, ""
            self._too_large.clear()
        return frozenset(number for number, _ in enforced.tracked())

    def change(self, change: Callable[[Engine], PolicyChange]) -> None:
        """What happens to the engine in force happens here."""
        if self._engine is not None:
            try:
                change(self._engine)
            except Exception as exc:  # what is enforced goes on
                self._give_up(exc)

    def follow(self, enforced: Engine) -> None:
        """Begin anew with what this engine has."""
        if not self._policies:
            return
        try:
            policies = [*enforced.policies(), *self._policies.values()]
            self._engine, self._fault = rebuild(enforced, policies=policies, context=self._context), ""
        except Exception as exc:  # what is enforced goes on
            self._give_up(exc)

    def forget_endpoint(self, number: NumericIdentity) -> None:
        """No endpoint has this identity any more."""
        self._too_large.pop(number, None)
        if self._engine is not None:
            self._engine.forget_endpoint(number)

    def directions(self, number: NumericIdentity) -> frozenset[Direction]:
        """In which staged policies select endpoints of this identity."""
        if self._engine is None:
            return _NO_DIRECTION
        return frozenset(self._selecting(self._engine, number))

    @property
    def is_active(self) -> bool:
        """Something may be decided otherwise."""
        return self._engine is not None

    def judge(
        self, endpoint: Endpoint, direction: Direction, peer: tuple[int, str], port: tuple[int, int]
    ) -> StagedDecision | None:
        """The decision on a new connection of an endpoint with a peer (identity, address) by protocol and port.

        None where no staged policy selects the endpoint in this direction. Denied if the endpoint would be closed because
        its rules make too many entries, and `fault` says so.
        """
        number = NumericIdentity(endpoint.identity)
        if self._engine is None or (first := self._selecting(self._engine, number).get(direction)) is None:
            return None
        identity, address = peer
        if identity in _OUTSIDE or identity & _SCOPE == LOCAL_SCOPE_CIDR:
            identity = self._range_of(self._engine, address)
        by_default = RuleOrigin(first, "default deny")
        try:
            policy = self._engine.endpoint_policy(number, named_ports(endpoint.named_ports))
        except TooManyEntriesError as exc:
            self._too_large[number] = f"staged policies would close the endpoints of identity {number}: {exc}"
            return StagedDecision(is_allowed=False, is_proxied=False, rule=by_default)
        except Exception as exc:  # flows go on
            self._give_up(exc)
            return None
        self._too_large.pop(number, None)
        verdict = policy.verdict(direction, identity, *port)
        if verdict.entry is None:
            return StagedDecision(verdict.allowed, is_proxied=False, rule=by_default)
        return StagedDecision(verdict.allowed, bool(verdict.entry.proxy_port), verdict.entry.rule)

    def _selecting(self, engine: Engine, number: NumericIdentity) -> dict[Direction, PolicyRef]:
        """By direction the first staged policy that selects the endpoint."""
        owners = ((rule.direction, rule.origin.policy) for rule in engine.rules_of(number))
        found: dict[Direction, PolicyRef] = {}
        for direction, policy in sorted(owner for owner in owners if owner[1] in self._policies):
            found.setdefault(direction, policy)
        return found

    def _range_of(self, engine: Engine, address: str) -> int:
        """The identity of the longest range around an address, by this engine's own numbers; else the world's."""
        revision, ranges, lengths = self._ranges
        if revision != engine.revision:
            ranges = {parse_prefix(text): int(found) for text, found in engine.prefixes().items()}
            lengths = sorted({prefix.bits for prefix in ranges}, reverse=True)
            self._ranges = (engine.revision, ranges, lengths)
        own = parse_address(address)
        tried = (ranges.get(own.shortened(bits)) for bits in lengths if bits <= own.width)
        return next((found for found in tried if found is not None), int(world_of(address)))

    def _give_up(self, exc: Exception) -> None:
        self._engine = None
        why = f"staged policies are not judged, internal error of the policy engine: {(exc.__cause__ or exc)!r}"
        self._fault = why[:MAXIMUM_TEXT]
