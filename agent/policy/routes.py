# SPDX-License-Identifier: Apache-2.0
"""REST paths of policies. Reads, never writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.datapath.layout import PolicyKey, PolicyValue
from agent.datapath.maps import Map
from agent.policy.compiler import PolicyCompiler
from agent.policy.rows import policy_list, policy_map_rows, selector_rows, service_rows
from agent.tables import AgentDB
from meshapi.agent import PolicyList, PolicyMapRow, SelectorRow, ServicePeersRow
from meshkit.rest import Rest


def add_policy_routes(
    rest: Rest,
    db: AgentDB,
    compiler: PolicyCompiler,
    held: Map[PolicyKey, PolicyValue],
    limits: Callable[[], Sequence[str]],
) -> None:
    """`limits` are what host policies do not reach on this node."""

    @rest.get("/v1/policy", PolicyList, tag="policy")
    async def policy() -> PolicyList:
        """Policy objects, in force or refused."""
        return policy_list(db, compiler, limits())

    @rest.get("/v1/policy/selectors", list[SelectorRow], tag="policy")
    async def selectors() -> list[SelectorRow]:
        """Every selector in use and the identities it selects."""
        return selector_rows(compiler)

    @rest.get("/v1/policy/services", list[ServicePeersRow], tag="policy")
    async def services(*, namespace: str = "") -> list[ServicePeersRow]:
        """Services (of one namespace, or all) and who their backends are, whether or not a rule names them."""
        return service_rows(db, namespace)

    @rest.get("/v1/policy/endpoints/{endpoint_id}", list[PolicyMapRow], tag="policy")
    async def endpoint(endpoint_id: int) -> list[PolicyMapRow]:
        """The realised policy map of one endpoint, rules by name."""
        return policy_map_rows(held.items(), endpoint_id, compiler)
