# SPDX-License-Identifier: Apache-2.0
"""Flows of a cluster without a gRPC server: its relay through the API server, or where it has none every agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import kube.resource as k
from clustermesh_cli.agent_answers import ask_all_agents
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.program_client import ProgramClient
from flows.document import json_line, read_json
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from kube.errors import Invalid, KubeError
from meshapi.installed import RELAY, RELAY_HTTP_SERVICE
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal

SILENCE_S: Final = 3600.0
ADVICE: Final = "run clustermesh enable --with-relay"
M = TypeVar("M", observer.ServerStatusResponse, observer.GetNodesResponse, observer.GetNamespacesResponse)


class ClusterRelay:
    """The relay of a cluster. Raises: CommandError where it does not answer."""

    def __init__(self, programs: ProgramClient) -> None:
        self.programs = programs

    def is_installed(self) -> bool:
        """Raises: KubeError."""
        namespace = self.programs.namespace
        return self.programs.client.get(k.SERVICES, RELAY_HTTP_SERVICE, namespace) is not None

    def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str] = ()
    ) -> Iterator[observer.GetFlowsResponse]:
        """As they come."""
        query = {"request": json_line(request), **({"clusters": ",".join(clusters)} if clusters else {})}
        try:
            stream = self.programs.follow_relay("v1/flows", query, SILENCE_S)
            try:
                yield from _answers(stream.read)
            finally:
                stream.close()
        except Invalid as exc:  # it did answer: what was asked makes no sense, or is of nobody who told it flows
            raise CommandError(exc.detail or str(exc), ExitCode.USAGE) from exc
        except KubeError as exc:
            raise CommandError(f"{RELAY} does not answer: {exc}", ExitCode.DEGRADED) from exc

    def status(self) -> observer.ServerStatusResponse:
        """The sum of its nodes."""
        return self._ask("v1/flows/status", observer.ServerStatusResponse())

    def nodes(self) -> observer.GetNodesResponse:
        """Every node, those that do not answer too."""
        return self._ask("v1/flows/nodes", observer.GetNodesResponse())

    def namespaces(self) -> observer.GetNamespacesResponse:
        """Those with flows within an hour."""
        return self._ask("v1/flows/namespaces", observer.GetNamespacesResponse())

    def _ask(self, path: str, answer: M) -> M:
        try:
            code, body = self.programs.get_relay(path)
        except KubeError as exc:
            raise CommandError(f"{RELAY} does not answer: {exc}", ExitCode.DEGRADED) from exc
        if code != 200:
            raise CommandError(f"{RELAY} answered {code}: {read_refusal(body)}", ExitCode.DEGRADED)
        return read_json(body, answer, RELAY)


class ClusterAgents:
    """The same from every agent, with a warning for each that is silent in `missing`."""

    def __init__(self, programs: ProgramClient) -> None:
        self._programs = programs
        self.missing: list[str] = []

    def status(self) -> observer.ServerStatusResponse:
        """The sum of all nodes."""
        nodes = self.nodes().nodes
        found = observer.ServerStatusResponse()
        for node in nodes:
            found.num_flows += node.num_flows
            found.max_flows += node.max_flows
            found.seen_flows += node.seen_flows
            found.uptime_ns = max(found.uptime_ns, node.uptime_ns)
        found.num_connected_nodes.value = len(nodes)
        found.num_unavailable_nodes.value = len(self.missing)
        found.unavailable_nodes.extend(why.removeprefix(": ").partition(":")[0] for why in self.missing)
        return found

    def nodes(self) -> observer.GetNodesResponse:
        """Every node whose agent answers."""
        rows = [
            observer.Node(
                name=str(said.get("node", "")),
                version=str(said.get("version", "")),
                state=relay.NODE_CONNECTED,
                uptime_ns=int(said.get("uptime_ns", 0)),
                num_flows=int(said.get("num_flows", 0)),
                max_flows=int(said.get("max_flows", 0)),
                seen_flows=int(said.get("seen_flows", 0)),
            )
            for said in self._ask("v1/flows/status")
        ]
        return observer.GetNodesResponse(nodes=sorted(rows, key=lambda row: row.name))

    def namespaces(self) -> observer.GetNamespacesResponse:
        """Those with flows within an hour."""
        found = {
            (str(row.get("cluster", "")), str(row.get("namespace", "")))
            for said in self._ask("v1/flows/namespaces")
            for row in said.get("namespaces", ())
        }
        rows = [observer.Namespace(cluster=cluster, namespace=name) for cluster, name in sorted(found)]
        return observer.GetNamespacesResponse(namespaces=rows)

    def _ask(self, path: str) -> list[dict[str, Any]]:
        def ask(programs: ProgramClient, pod: str) -> dict[str, Any]:
            code, body = programs.get_agent(pod, path)
            if code != 200:
                raise CommandError(f"agent {pod} answered {code}: {read_refusal(body)}", ExitCode.DEGRADED)
            return decode_as(body, dict[str, Any])

        found, self.missing = ask_all_agents({"": self._programs}, ask)
        if not found:
            raise CommandError("; ".join(why.removeprefix(": ") for why in self.missing), ExitCode.DEGRADED)
        return found


def _answers(read: Any) -> Iterator[observer.GetFlowsResponse]:
    """The lines of an answer that comes in parts."""
    buffer = b""
    while data := read():
        head, newline, buffer = (buffer + data).rpartition(b"\n")
        for line in (head + newline).splitlines():
            yield read_json(line, observer.GetFlowsResponse(), RELAY)


def empty_reason(nodes: Sequence[observer.Node]) -> str:
    """Why a request found nothing, given what nodes say of themselves."""
    answering = [node for node in nodes if node.state == relay.NODE_CONNECTED]
    if not nodes:
        return "no flows: the relay knows no node yet"
    if not answering:
        return f"no flows: none of {len(nodes)} nodes answers"
    kept = sum(node.num_flows for node in answering)
    if not kept:
        return f"no flows: nothing was seen on {len(answering)} of {len(nodes)} nodes since their agents started"
    return f"no flows: none of the {kept} that are kept on {len(answering)} of {len(nodes)} nodes is what was asked for"
