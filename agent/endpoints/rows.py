# SPDX-License-Identifier: Apache-2.0
"""Pods of this node as rows of meshapi. Reads, never writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.tables import AgentDB
from meshapi.agent import EndpointRow


def endpoint_rows(db: AgentDB, revision: Callable[[str], int | None], failures: Mapping[str, str]) -> list[EndpointRow]:
    """Pods that have an interface, by address.

    `revision` is the policy revision that the kernel enforces for an address, `failures` say why a policy does not fit.
    """
    found = []
    for row in sorted(db.endpoints.rows(), key=lambda e: e.address):
        verdicts = db.verdicts.get(row.address)
        found.append(
            EndpointRow(
                id=row.endpoint_id,
                address=row.address,
                identity=row.identity,
                ingress_enforced=verdicts is not None and verdicts.policy.ingress_enforced,
                egress_enforced=verdicts is not None and verdicts.policy.egress_enforced,
                policy_revision=revision(row.address),
                namespace=row.namespace,
                pod=row.pod,
                ifindex=row.ifindex,
                behind="bridge port" if row.is_bridge_port else "routed",
                failure=failures.get(row.address, ""),
                ipv6=list(row.ipv6),
            )
        )
    return found
