# SPDX-License-Identifier: Apache-2.0
"""The flows of this cluster, and of peers that granted theirs: what every door of the relay serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from flows.errors import RequestError
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.remote import UnansweredError
from flows.request import check_request
from flows.words import qualified_name
from meshkit.clock import Clock
from meshkit.version import program_version
from relay.fan import Fan
from relay.links import ObserverLink, ObserverLinks
from relay.nodes import Nodes
from relay.programs import Programs
from relay.view import ALL, OWN, MeshView


class FlowMesh(MeshView):
    """One relay's view. `observers` are those of this cluster's nodes, `peers` the relays of others by cluster."""

    def __init__(
        self,
        cluster: str,
        observers: ObserverLinks,
        peers: ObserverLinks,
        *,
        nodes: Nodes,
        programs: Programs,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self.observers, self.peers = observers, peers
        self._nodes, self._programs, self._clock = nodes, programs, clock

    @property
    def cluster(self) -> str:
        """This one."""
        return self._cluster

    @property
    def reader(self) -> str:
        """Nobody's share: programs of this cluster have all of it together."""
        return ""

    async def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str] = OWN
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """As they come. Raises: FilterError, RequestError."""
        check_request(request)
        self.check_clusters(clusters)
        fan = Fan(lambda: self._chosen(clusters), request, qualified_name(self.cluster, "relay"), self._clock)
        async with aclosing(fan.answers()) as answers:
            async for answer in answers:
                yield answer

    async def nodes(self) -> Sequence[observer.Node]:
        """As they say now, and those that do not answer."""
        links = self.observers.rows()
        await asyncio.gather(*(link.ask() for link in links if link.state != relay.NODE_UNAVAILABLE))
        return self.known_nodes()

    def known_nodes(self) -> Sequence[observer.Node]:
        """As they said last, within the last seconds; asks nobody."""
        return [_node(link) for link in self.observers.rows()]

    async def list_nodes(self) -> observer.GetNodesResponse:
        """The same as a message."""
        return observer.GetNodesResponse(nodes=await self.nodes())

    async def namespaces(self) -> Sequence[tuple[str, str]]:
        """Cluster and namespace of the flows of the last hour, of all nodes that answer."""
        links = [link for link in self.observers.rows() if link.state != relay.NODE_UNAVAILABLE]
        answers = await asyncio.gather(*(_namespaces(link) for link in links))
        return sorted({pair for each in answers for pair in each})

    async def list_namespaces(self) -> observer.GetNamespacesResponse:
        """The same as a message."""
        rows = [observer.Namespace(cluster=cluster, namespace=name) for cluster, name in await self.namespaces()]
        return observer.GetNamespacesResponse(namespaces=rows)

    async def status(self) -> observer.ServerStatusResponse:
        """The sum of all nodes; uptime is the longest."""
        nodes = await self.nodes()
        found = observer.ServerStatusResponse(version=program_version())
        said = [link.said for link in self.observers.rows() if link.said and link.state == relay.NODE_CONNECTED]
        for each in said:
            found.num_flows += each.num_flows
            found.max_flows += each.max_flows
            found.seen_flows += each.seen_flows
            found.flows_rate += each.flows_rate
            found.uptime_ns = max(found.uptime_ns, each.uptime_ns)
        away = [node.name for node in nodes if node.state != relay.NODE_CONNECTED]
        found.num_connected_nodes.value = len(nodes) - len(away)
        found.num_unavailable_nodes.value = len(away)
        found.unavailable_nodes.extend(away)
        return found

    async def ask_apiserver(self, path: str) -> bytes:
        """Raises: NotAskedError."""
        return await self._programs.ask_apiserver(path)

    async def ask_agent(self, node: str, path: str) -> bytes:
        """Raises: NotAskedError."""
        return await self._programs.ask_agent(node, self._nodes.address(node), path)

    def check_clusters(self, clusters: Sequence[str]) -> Sequence[str]:
        """The clusters, all of which there are flows of. Raises: RequestError."""
        known = {self.cluster, *(link.name for link in self.peers.rows())}
        if tuple(clusters) == ALL or set(clusters) <= known:
            return clusters
        wrong = ", ".join(sorted(set(clusters) - known))[:200]
        raise RequestError(
            f"clusters: {self.cluster} has no flows of {wrong}, but of {', '.join(sorted(known))}; "
            "clustermesh connect --allow-flows grants them"
        )

    def _chosen(self, clusters: Sequence[str]) -> list[ObserverLink]:
        if not clusters:
            return self.observers.rows()
        own = self.observers.rows() if tuple(clusters) == ALL or self.cluster in clusters else []
        return own + [link for link in self.peers.rows() if tuple(clusters) == ALL or link.name in clusters]


def _node(link: ObserverLink) -> observer.Node:
    found = observer.Node(name=link.name, address=link.remote.facts.address, state=link.state)
    found.tls.enabled = bool(link.remote.facts.server_name)
    found.tls.server_name = link.remote.facts.server_name
    if link.said is not None and link.state == relay.NODE_CONNECTED:
        said = link.said
        found.version, found.uptime_ns = said.version, said.uptime_ns
        found.num_flows, found.max_flows, found.seen_flows = said.num_flows, said.max_flows, said.seen_flows
    return found


async def _namespaces(link: ObserverLink) -> list[tuple[str, str]]:
    try:
        found = await link.remote.namespaces()
    except UnansweredError:
        link.doubt()
        return []
    return [(row.cluster, row.namespace) for row in found.namespaces]
