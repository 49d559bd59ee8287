# SPDX-License-Identifier: Apache-2.0
"""The REST paths of what this node's observer says of itself, for who has no relay to ask. Reads, never writes."""

from __future__ import annotations

from typing import Any

from flows.document import members_of
from flows.live import LiveFlows
from flows.proto import observer_pb2 as observer
from meshkit.clock import Clock
from meshkit.rest import Rest
from meshkit.version import program_version


def add_status_routes(rest: Rest, flows: LiveFlows, clock: Clock) -> None:
    """`flows` are the observer's."""
    started_s = clock.monotonic()

    @rest.get("/v1/flows/status", dict[str, Any], tag="flows")
    async def status() -> dict[str, Any]:
        """How full the ring is and how fast it fills: a ServerStatusResponse of Hubble, and the node's name."""
        said = flows.status(clock.monotonic() - started_s, program_version())
        return {"node": flows.node_name, **members_of(said)}

    @rest.get("/v1/flows/namespaces", dict[str, Any], tag="flows")
    async def namespaces() -> dict[str, Any]:
        """The namespaces of the flows of the last hour, with their clusters: a GetNamespacesResponse of Hubble."""
        found = flows.namespaces(clock.monotonic())
        rows = [observer.Namespace(cluster=cluster, namespace=name) for cluster, name in found]
        return members_of(observer.GetNamespacesResponse(namespaces=rows))
