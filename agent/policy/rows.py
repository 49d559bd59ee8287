# SPDX-License-Identifier: Apache-2.0
"""Policies as rows of meshapi: objects, selectors, an endpoint's map, and rules a lost peer widens. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent.datapath.layout import PolicyKey, PolicyValue
from agent.policy.compiler import PolicyCompiler
from agent.policy.services import ServiceResolver
from agent.tables import THE_NODE, AgentDB
from meshapi.agent import NOT_ENFORCED, PolicyList, PolicyMapRow, PolicyStatus, SelectorRow, ServicePeersRow
from meshmodel.identity import NumericIdentity, identity_name
from meshmodel.names import ClusterName
from meshpolicy import Engine, Policy
from meshpolicy.reference import HOST_GUARD
from meshpolicy.scope import find_widening

_NAMED_PODS: Final = 5
_THE_NODE: Final = "the node"


def policy_list(db: AgentDB, compiler: PolicyCompiler, limits: Sequence[str] = ()) -> PolicyList:
    """Every policy object, in force or refused; `limits` are what host policies do not reach on this node."""
    engine = compiler.engine
    concerned = concerned_pods(db, engine)
    of_node = {
        (p.key.kind, p.key.namespace, p.key.name) for p in engine.policies() if limits and selects_node(engine, p)
    }
    rows = sorted(db.policies.rows(), key=lambda p: (p.kind, p.namespace, p.name))
    return PolicyList(
        revision=compiler.engine.revision,
        policies=[
            PolicyStatus(
                kind=row.kind,
                namespace=row.namespace,
                name=row.name,
                valid=row.is_valid,
                message=row.message,
                problems=[*row.problems, *beyond],
                not_enforced=[*row.unenforced, *beyond],
                staged=row.is_staged,
                pods=concerned.get(key, [_THE_NODE] if beyond else []),
            )
            for row in rows
            for key in [(row.kind, row.namespace, row.name)]
            for beyond in [limits if key in of_node else ()]
        ],
    )


def selector_rows(compiler: PolicyCompiler) -> list[SelectorRow]:
    """Every selector in use and the identities it selects."""
    found = compiler.engine.selectors()
    return [SelectorRow(selector=text, identities=[int(i) for i in ids]) for text, ids in found.items()]


def service_rows(db: AgentDB, namespace: str) -> list[ServicePeersRow]:
    """Services of one namespace, or of all, and who their backends are now."""
    return [
        ServicePeersRow(
            namespace=service.namespace,
            name=service.name,
            labels=dict(service.labels),
            identities=sorted(service.identities),
            addresses=[str(prefix) for prefix in sorted(service.addresses)],
            reserved=sorted(service.reserved),
        )
        for service in ServiceResolver(db).look_up(namespace)
    ]


def policy_map_rows(
    entries: Iterable[tuple[PolicyKey, PolicyValue]], endpoint_id: int, compiler: PolicyCompiler
) -> list[PolicyMapRow]:
    """What the kernel enforces for one endpoint, in order of direction, identity, protocol and port."""
    found = [
        PolicyMapRow(
            **key._asdict(),
            **value._asdict(),
            identity_name=identity_name(NumericIdentity(key.identity)) if key.identity else "any",
            rule=str(compiler.rule_origin(value.rule_id) or ""),
        )
        for key, value in entries
        if key.endpoint_id == endpoint_id
    ]
    return sorted(found, key=lambda row: (row.direction, row.identity, row.protocol, row.port, row.port_bits))


def engine_faults(faults: Mapping[str, str]) -> list[str]:
    """What is kept closed because the policy engine failed on it."""
    return [f"{what}: {reason}" for what, reason in sorted(faults.items())]


def selects_node(engine: Engine, policy: Policy) -> bool:
    """It is a host policy of this node, other than the guard."""
    if not policy.is_host or policy.key == HOST_GUARD:
        return False
    return any(THE_NODE.identity in engine.selected_by(rule.subject) for rule in policy.rules)


def concerned_pods(db: AgentDB, engine: Engine) -> dict[tuple[str, str, str], list[str]]:
    """The pods of this node, as namespace/name, and the node, that each policy selects of which a part is not enforced."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for policy in engine.policies():
        row = db.policies.get((policy.key.kind, policy.key.namespace, policy.key.name))
        if row is not None and row.unenforced:
            subjects = {rule.subject for rule in policy.rules}
            selected = frozenset[int]().union(*(engine.selected_by(subject) for subject in subjects))
            pods = sorted(f"{e.namespace}/{e.pod}" for e in db.endpoints.rows() if e.identity in selected)
            node = [_THE_NODE] if policy.is_host and THE_NODE.identity in selected else []
            found[policy.key.kind, policy.key.namespace, policy.key.name] = [*node, *pods]
    return found


def policy_problems(db: AgentDB, engine: Engine) -> list[str]:
    """Policy objects that are refused, and parts of others that are not in force, with the pods here that it concerns."""
    concerned = concerned_pods(db, engine)
    found = []
    for row in db.policies.rows():
        label = f"{row.kind} {row.namespace}/{row.name}" if row.namespace else f"{row.kind} {row.name}"
        if not row.is_valid:
            found.append(f"{label} refused: {row.message}")
        pods = concerned.get((row.kind, row.namespace, row.name), [])
        for problem in row.problems:
            if problem in row.unenforced:
                found.append(f"{NOT_ENFORCED}{label}: {problem}{_pods_text(pods)}")
            else:
                found.append(f"{label}: {problem}")
    return found


def _pods_text(pods: Sequence[str]) -> str:
    if not pods:
        return ""
    more = f" and {len(pods) - _NAMED_PODS} more" if len(pods) > _NAMED_PODS else ""
    return f" (pods here: {', '.join(pods[:_NAMED_PODS])}{more})"


def describe_widening(policies: Iterable[Policy], drained: Mapping[ClusterName, tuple[str, ...]]) -> list[str]:
    """What rules for addresses admit since clusters are no peers any more: their pods have no identities here now."""
    known = tuple(policies)
    return [
        f"{widening.origin}: {peer} is no peer any more, so {widening.selector} now means its pods too "
        f"({', '.join(widening.prefixes)})"
        for peer, networks in sorted(drained.items())
        for widening in find_widening(known, networks)
    ]
