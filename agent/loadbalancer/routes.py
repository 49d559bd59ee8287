# SPDX-License-Identifier: Apache-2.0
"""REST paths of services. Reads, never writes."""

from __future__ import annotations

from agent.loadbalancer.rows import ServiceRows
from meshapi.service import ServiceExplanation, ServiceStatus
from meshkit.rest import NotAnswered, Rest
from meshmodel.names import ServiceName


def add_service_routes(rest: Rest, rows: ServiceRows) -> None:
    @rest.get("/v1/services", list[ServiceStatus], tag="services")
    async def services(cluster: str = "", ns: str = "") -> list[ServiceStatus]:
        """Every service address with its candidates; `cluster` keeps those with a backend there."""
        return rows.services(cluster, ns)

    @rest.get(
        "/v1/services/{namespace}/{name}", ServiceExplanation, tag="services", errors={404: "no such service here"}
    )
    async def service(namespace: str, name: str) -> ServiceExplanation:
        """One service: candidates, the rule that decided, and what is in the map since when."""
        found = rows.explain(ServiceName(namespace, name))
        if found is None:
            raise NotAnswered(404, f"no service {namespace}/{name} in this cluster")
        return found
