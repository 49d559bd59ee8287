# SPDX-License-Identifier: Apache-2.0
"""The page's paths. Each is read only and needs what every path needs: a token over the network, or the socket."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Query, Response
from fastapi.responses import RedirectResponse

from flows.document import members_of
from flows.errors import FilterError, RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from meshapi.page import (
    FlowBatch,
    FlowExplanation,
    PageMesh,
    PageNamespace,
    PageNode,
    PageServices,
    PageState,
)
from meshapi.service import ServiceExplanation
from meshkit.followers import Followers
from meshkit.rest import NotAnswered, Rest
from relay.page.allowing import allowing_policy
from relay.page.feed import event, events
from relay.page.files import PageHeaders, page_files
from relay.page.why import explain_command, sentences
from relay.page.wish import FlowWish, make_request, one_flow
from relay.view import ALL, OWN, MeshView, NotAskedError

READERS: Final = 32
ASK_S: Final = 10.0
_EVENTS: Final = "text/event-stream"
_SHORT: Final = 253
"""Characters of a filter: what a DNS name may have."""


def add_page(app: FastAPI, rest: Rest, view: MeshView) -> None:
    """The application serves the page under /ui/."""
    _add_files(app)
    _add_flows(rest, view)
    _add_mesh(rest, view)


def _add_files(app: FastAPI) -> None:
    files = page_files()
    app.add_middleware(PageHeaders)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("ui/")

    @app.get("/ui/", include_in_schema=False)
    async def index() -> Response:
        return files[""]

    @app.get("/ui/files/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        found = files.get(name)
        if found is None:
            raise NotAnswered(404, "the page has no such file")
        return found


def _add_flows(rest: Rest, view: MeshView) -> None:
    readers = Followers(READERS)

    @rest.get_stream("/ui/events", FlowBatch, _EVENTS, tag="page", errors={429: "too many readers"})
    async def flows(
        *,
        verdict: str = Query("", max_length=_SHORT),
        namespace: str = Query("", max_length=_SHORT),
        pod: str = Query("", max_length=2 * _SHORT),
        label: str = Query("", max_length=2 * _SHORT),
        cluster: str = Query("", max_length=_SHORT),
        port: str = Query("", max_length=16),
        status: str = Query("", max_length=16),
        dns: str = Query("", max_length=_SHORT),
        clusters: str = Query("own", pattern="^(own|all)$"),
        since: int = Query(0, ge=0, lt=1 << 53),
        first: int = Query(2000, ge=0, le=5000),
        staged: str = Query("", max_length=_SHORT),
    ) -> Response:
        """Flows as they come, after those of the past; server-sent events named flows, nodes, lost, refused, begin, beat."""
        wish = FlowWish(verdict, namespace, pod, label, cluster, port, status, dns, since, first, staged)
        try:
            request = make_request(wish, len(await view.nodes()))
        except FilterError as exc:
            return Response(event("refused", {"message": str(exc)}), media_type=_EVENTS)
        return await readers.answer(events(view.flows(request, ALL if clusters == "all" else OWN)), _EVENTS)

    @rest.get("/ui/flow", FlowExplanation, tag="page", errors={404: "no node has this flow any more"})
    async def flow(
        *, uuid: str = Query(max_length=64), node: str = Query("", max_length=2 * _SHORT)
    ) -> FlowExplanation:
        """One flow as a whole, and why it was decided so."""
        try:
            request = one_flow(uuid, node)
        except FilterError as exc:
            raise NotAnswered(400, str(exc)) from exc
        found = await _find(view, request)
        if found is None:
            raise NotAnswered(404, "no node has this flow any more: rings keep the newest flows only")
        return FlowExplanation(
            flow=members_of(found),
            why=sentences(found),
            command=explain_command(found),
            suggestion=allowing_policy(found),
        )


def _add_mesh(rest: Rest, view: MeshView) -> None:
    @rest.get("/ui/state", PageState, tag="page")
    async def state() -> PageState:
        """The nodes that are asked for flows, and the namespaces of which there were any."""
        nodes, namespaces = await view.nodes(), await view.namespaces()
        return PageState(
            cluster=view.cluster,
            nodes=[_node(node) for node in nodes],
            namespaces=[PageNamespace(cluster=cluster, namespace=name) for cluster, name in namespaces],
        )

    @rest.get("/ui/mesh", PageMesh, tag="page")
    async def mesh() -> PageMesh:
        """What this cluster's apiserver says of itself and of its peers."""
        try:
            status, certificates = await view.ask_apiserver("v1/status"), await view.ask_apiserver("v1/certs")
        except NotAskedError as exc:
            return PageMesh(problem=str(exc))
        return PageMesh(status=msgspec.Raw(status), certificates=msgspec.Raw(certificates))

    @rest.get("/ui/services", PageServices, tag="page")
    async def services(*, node: str = Query("", max_length=2 * _SHORT)) -> PageServices:
        """The service addresses that a node knows; without a name, the first node that answers."""
        chosen = node or await _any_node(view)
        if not chosen:
            return PageServices(problem="no node of this cluster answers")
        try:
            return PageServices(node=chosen, services=msgspec.Raw(await view.ask_agent(_bare(chosen), "v1/services")))
        except NotAskedError as exc:
            return PageServices(node=chosen, problem=str(exc))

    @rest.get("/ui/services/{namespace}/{name}", ServiceExplanation, tag="page", errors={404: "it is not told"})
    async def service(namespace: str, name: str, *, node: str = Query("", max_length=2 * _SHORT)) -> Any:
        """The candidates of one service on a node, and why each is chosen or not."""
        if not _is_name(namespace) or not _is_name(name):
            raise NotAnswered(404, "no service has such a name")
        try:
            chosen = _bare(node or await _any_node(view))
            return msgspec.Raw(await view.ask_agent(chosen, f"v1/services/{namespace}/{name}"))
        except NotAskedError as exc:
            raise NotAnswered(404, str(exc)) from exc


async def _find(view: MeshView, request: observer.GetFlowsRequest) -> pb.Flow | None:
    """The first flow that answers the request, of any cluster. Raises: NotAnswered."""
    try:
        async with asyncio.timeout(ASK_S), aclosing(view.flows(request, ALL)) as answers:
            async for answer in answers:
                if answer.WhichOneof("response_types") == "flow":
                    return answer.flow
    except (FilterError, RequestError) as exc:
        raise NotAnswered(400, str(exc)) from exc
    except TimeoutError:
        return None
    return None


async def _any_node(view: MeshView) -> str:
    return next((node.name for node in await view.nodes() if node.state == relay.NODE_CONNECTED), "")


def _bare(node: str) -> str:
    """A node's own name, of the name by which flows name it."""
    return node.rpartition("/")[2]


def _node(node: observer.Node) -> PageNode:
    return PageNode(
        name=node.name,
        state=relay.NodeState.Name(node.state).removeprefix("NODE_").lower(),
        flows=node.num_flows,
        capacity=node.max_flows,
        seen=node.seen_flows,
    )


def _is_name(text: str) -> bool:
    """What may stand in a path: a Kubernetes name."""
    return 0 < len(text) <= _SHORT and all(c.isascii() and (c.isalnum() or c in "-.") for c in text) and text[0] != "."
