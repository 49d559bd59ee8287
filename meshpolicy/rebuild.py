# SPDX-License-Identifier: Apache-2.0
"""An engine made anew from another one's inputs: to compare with, and to go on with after a fault.

A fault is an exception that no document may cause: the engine that raised it may be half changed and is not used again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from meshmodel.identity import NumericIdentity
from meshpolicy.context import PolicyContext
from meshpolicy.engine import Engine
from meshpolicy.errors import EngineFaultError
from meshpolicy.rule import Policy, Rule


def rebuild(
    engine: Engine,
    *,
    policies: Iterable[Policy] | None = None,
    without: Collection[NumericIdentity] = (),
    context: PolicyContext | None = None,
) -> Engine:
    """A fresh engine with the same groups, identities (less `without`) and port names, and with these policies.

    `policies` None means those that the old engine has in force, `context` None its context. The tracked identities are
    tracked again, revisions go on from the old engine's. Raises: EngineFaultError naming the policy that the engine fails on.
    """
    fresh = Engine(engine.context if context is None else context)
    fresh.revision = engine.revision
    for group in engine.cidr_groups():
        fresh.set_cidr_group(group)
    fresh.set_services(engine.services())
    for number, labels in engine.identities().items():
        if number not in without:
            fresh.set_identity(number, labels)
    for pod, defined in engine.pod_ports().items():
        fresh.set_pod_ports(pod, NumericIdentity(defined.identity), defined.ports)
    fresh.hold_prefixes(engine.held_prefixes())
    fresh.set_names(engine.names())
    for policy in engine.policies() if policies is None else policies:
        try:
            fresh.set_policy(policy)
        except Exception as exc:
            raise EngineFaultError(policy.key) from exc
    for number, ports in engine.tracked():
        if number not in without:
            fresh.track(number, ports)
    return fresh


def differences(engine: Engine) -> tuple[str, ...]:
    """Where the engine does not say what a fresh build of the same inputs says, one line each; empty if nowhere."""
    fresh = rebuild(engine)
    found: list[str] = []
    if engine.selectors() != fresh.selectors():
        known, expected = engine.selectors(), fresh.selectors()
        found.extend(
            f"{selector} selects {known.get(selector)}, a fresh build {expected.get(selector)}"
            for selector in sorted(known.keys() | expected.keys())
            if known.get(selector) != expected.get(selector)
        )
    if engine.prefixes() != fresh.prefixes():
        found.append(f"prefixes are {engine.prefixes()}, of a fresh build {fresh.prefixes()}")
    found.extend(
        f"identity {number} with {dict(ports)} has another policy than in a fresh build"
        for number, ports in engine.tracked()
        if engine.endpoint_policy(number, ports) != fresh.endpoint_policy(number, ports)
    )
    return tuple(found)


def closed(policy: Policy) -> Policy:
    """What is enforced in place of a policy that the engine fails on: nothing that it could have closed is open.

    Its subjects are default denied in the directions that it names, and it allows nothing. Where it denies, everything
    of that direction is denied, since nobody can say any more what exactly it would have denied.
    """
    denies = {(rule.subject, rule.direction) for rule in policy.rules if rule.deny or rule.passes}
    rules = (_closed(rule, deny=(rule.subject, rule.direction) in denies) for rule in policy.rules)
    return replace(policy, rules=tuple(rules))


def _closed(rule: Rule, *, deny: bool) -> Rule:
    nothing = None if deny else ()
    return Rule(
        rule.origin,
        rule.subject,
        rule.direction,
        nothing,
        nothing,
        deny,
        tier=rule.tier,
        priority=rule.priority,
        place=rule.place,
        is_host=rule.is_host,
    )
