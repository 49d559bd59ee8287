# SPDX-License-Identifier: Apache-2.0
"""`clustermesh flows status | list`: what a server of flows says of itself, as Hubble's command prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.flow_server import flow_server
from clustermesh_cli.flow_sources import ClusterAgents, ClusterRelay
from clustermesh_cli.program_client import ProgramClient
from flows.client import FlowClient
from flows.document import members_of
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.text import aligned
from meshapi.installed import AGENT, RELAY
from meshapi.row import SCHEMA
from meshkit.answer_form import AnswerForm

Answer = observer.ServerStatusResponse | observer.GetNodesResponse | observer.GetNamespacesResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowQuestion:
    """Who is asked: a server, or without one the cluster of `programs`, its relay or every agent."""

    server: str
    authorities: Sequence[str]
    cert: str
    key: str
    name: str
    programs: Callable[[], ProgramClient]


def status(asked: FlowQuestion, form: AnswerForm) -> ExitCode:
    """Raises: CommandError where nobody answers, or the server is not healthy."""
    if asked.server:
        with _server(asked) as client:
            if not client.is_healthy():
                raise CommandError(f"{asked.server}: not healthy")
            found = client.server_status()
        _print(found, [f"Healthcheck (via {asked.server}): Ok", *status_lines(found)], form)
        return ExitCode.OK
    source, who = _source(asked)
    found = source.status()
    _print(found, [f"Healthcheck (via {who}): Ok", *status_lines(found)], form)
    return ExitCode.DEGRADED if found.num_unavailable_nodes.value else ExitCode.OK


def _server(asked: FlowQuestion) -> AbstractContextManager[FlowClient]:
    return flow_server(asked.server, asked.authorities, asked.cert, asked.key, asked.name)


def _source(asked: FlowQuestion) -> tuple[ClusterRelay | ClusterAgents, str]:
    if asked.authorities or asked.cert or asked.key or asked.name:
        raise CommandError("flags that begin with --tls are for a server: name it with --server", ExitCode.USAGE)
    programs = asked.programs()
    relay_ = ClusterRelay(programs)
    return (relay_, RELAY) if relay_.is_installed() else (ClusterAgents(programs), f"every {AGENT}")


def status_lines(found: observer.ServerStatusResponse) -> list[str]:
    """How full the rings are, how fast they fill, and which nodes are there."""
    share = f" ({found.num_flows / found.max_flows:.2%})" if found.max_flows else ""
    lines = [f"Current/Max Flows: {found.num_flows:,}/{found.max_flows:,}{share}", f"Flows/s: {found.flows_rate:.2f}"]
    if found.HasField("num_connected_nodes"):
        connected, gone = found.num_connected_nodes.value, found.num_unavailable_nodes.value
        lines.append(f"Connected Nodes: {connected}/{connected + gone}")
        if gone:
            lines.append(f"Unavailable Nodes: {gone}")
            lines += [f"  - {name}" for name in found.unavailable_nodes]
    return lines


def nodes(asked: FlowQuestion, form: AnswerForm) -> None:
    """Raises: CommandError, also where an observer is asked instead of a relay."""
    if asked.server:
        with _server(asked) as client:
            found = client.get_nodes()
    else:
        found = _source(asked)[0].nodes()
    rows = [
        (
            node.name,
            relay.NodeState.Name(node.state).removeprefix("NODE_").capitalize(),
            f"{node.uptime_ns / 3.6e12:.1f}h",
            f"{node.seen_flows / (node.uptime_ns / 1e9):.2f}" if node.uptime_ns else "-",
            f"{node.num_flows:,}/{node.max_flows:,}",
        )
        for node in found.nodes
    ]
    _print(found, aligned([("NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"), *rows]), form)


def namespaces(asked: FlowQuestion, form: AnswerForm) -> None:
    """Raises: CommandError."""
    if asked.server:
        with _server(asked) as client:
            found = client.get_namespaces()
    else:
        found = _source(asked)[0].namespaces()
    rows = [(row.namespace, row.cluster) for row in found.namespaces]
    _print(found, aligned([("NAMESPACE", "CLUSTER"), *rows]), form)


def _print(found: Answer, lines: Iterable[str], form: AnswerForm) -> None:
    """The lines, or the message by the names of its .proto."""
    print_answer({"schema": SCHEMA, **members_of(found)}, lines, form, Console(plain=True))
