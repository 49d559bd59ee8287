# SPDX-License-Identifier: Apache-2.0
"""The relay's REST interface: health, metrics, flows of all nodes, what it says of itself, and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from fastapi import FastAPI, Query, Response

from flows.document import json_line, members_of, read_json
from flows.errors import FilterError, RequestError
from flows.proto import observer_pb2 as observer
from flows.request import check_request
from meshapi.installed import RELAY
from meshkit.followers import Followers
from meshkit.health import Health
from meshkit.http import make_app
from meshkit.metrics import Registry
from meshkit.rest import NotAnswered, Rest
from meshkit.version import program_version
from relay.mesh import FlowMesh
from relay.page.routes import add_page

MAX_FOLLOWERS: Final = 64
_FLOWS: Final = "application/x-ndjson"


def make_api(mesh: FlowMesh, health: Health, registry: Registry) -> FastAPI:
    """The application; every answer is made from what nodes say at that moment."""
    app = make_app(RELAY, program_version(), health, registry)
    rest = Rest(app)
    followers = Followers(MAX_FOLLOWERS)

    @rest.get_stream("/v1/flows", dict[str, Any], _FLOWS, tag="flows", errors={429: "too many followers"})
    async def flows(*, request: str = "{}", clusters: str = Query("", max_length=4096)) -> Response:
        """Flows of all nodes in the order of time, each a GetFlowsResponse of Hubble as JSON in one line.

        `request` is a GetFlowsRequest as JSON. `clusters` are names, separated by commas, or `all`; empty: this cluster.
        """
        try:
            wanted = read_json(request, observer.GetFlowsRequest(), "request")
            check_request(wanted)
            named = mesh.check_clusters(tuple(name for name in clusters.split(",") if name))
        except (FilterError, RequestError) as exc:
            raise NotAnswered(400, str(exc)) from exc

        async def lines() -> AsyncGenerator[bytes, None]:
            async with aclosing(mesh.flows(wanted, named)) as answers:
                async for answer in answers:
                    yield json_line(answer).encode() + b"\n"
                    await asyncio.sleep(0)

        return await followers.answer(lines(), _FLOWS)

    @rest.get("/v1/flows/status", dict[str, Any], tag="flows")
    async def status() -> dict[str, Any]:
        """How full the rings of all nodes are together, and which nodes are there: a ServerStatusResponse of Hubble."""
        return members_of(await mesh.status())

    @rest.get("/v1/flows/nodes", dict[str, Any], tag="flows")
    async def nodes() -> dict[str, Any]:
        """Every node: a GetNodesResponse of Hubble."""
        return members_of(await mesh.list_nodes())

    @rest.get("/v1/flows/namespaces", dict[str, Any], tag="flows")
    async def namespaces() -> dict[str, Any]:
        """The namespaces of the flows of the last hour, with their clusters: a GetNamespacesResponse of Hubble."""
        return members_of(await mesh.list_namespaces())

    add_page(app, rest, mesh)
    return app
