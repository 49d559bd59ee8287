# SPDX-License-Identifier: Apache-2.0
"""Policies as rows of meshapi: objects, selectors, an endpoint's map, and rules a lost peer widens. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.datapath.layout import PolicyKey, PolicyValue
from agent.policy.compiler import PolicyCompiler
from agent.tables import AgentDB
from meshapi.agent import PolicyList, PolicyMapRow, PolicyStatus, SelectorRow
from meshmodel.identity import NumericIdentity, identity_name
from meshmodel.names import ClusterName
from meshpolicy import Policy
from meshpolicy.scope import find_widening


def policy_list(db: AgentDB, compiler: PolicyCompiler) -> PolicyList:
    """Every policy object, in force or refused."""
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
                problems=list(row.problems),
            )
            for row in rows
        ],
    )


def selector_rows(compiler: PolicyCompiler) -> list[SelectorRow]:
    """Every selector in use and the identities it selects."""
    found = compiler.engine.selectors()
    return [SelectorRow(selector=text, identities=[int(i) for i in ids]) for text, ids in found.items()]


def policy_map_rows(
    entries: Iterable[tuple[PolicyKey, PolicyValue]], endpoint_id: int, compiler: PolicyCompiler
) -> list[PolicyMapRow]:
    """What the kernel enforces for one endpoint, in order of direction, identity, protocol and port."""
    found = [
        PolicyMapRow(
            **key._asdict(),
            **value._asdict(),
            identity_name=identity_name(NumericIdentity(key.identity)) if key.identity else "any",
            rule=compiler.rule_name(value.rule_id),
        )
        for key, value in entries
        if key.endpoint_id == endpoint_id
    ]
    return sorted(found, key=lambda row: (row.direction, row.identity, row.protocol, row.port, row.port_bits))


def engine_faults(faults: Mapping[str, str]) -> list[str]:
    """What is kept closed because the policy engine failed on it."""
    return [f"{what}: {reason}" for what, reason in sorted(faults.items())]


def policy_problems(db: AgentDB) -> list[str]:
    """Policy objects that are refused, and parts of others that are not in force."""
    found = []
    for row in db.policies.rows():
        label = f"{row.kind} {row.namespace}/{row.name}" if row.namespace else f"{row.kind} {row.name}"
        if not row.is_valid:
            found.append(f"{label} refused: {row.message}")
        found += [f"{label}: {problem}" for problem in row.problems]
    return found


def describe_widening(policies: Iterable[Policy], drained: Mapping[ClusterName, tuple[str, ...]]) -> list[str]:
    """What rules for addresses admit since clusters are no peers any more: their pods have no identities here now."""
    known = tuple(policies)
    return [
        f"{widening.origin}: {peer} is no peer any more, so {widening.selector} now means its pods too "
        f"({', '.join(widening.prefixes)})"
        for peer, networks in sorted(drained.items())
        for widening in find_widening(known, networks)
    ]
