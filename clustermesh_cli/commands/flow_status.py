# SPDX-License-Identifier: Apache-2.0
"""`clustermesh flows status | list`: what a server of flows says of itself, as Hubble's command prints it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.flow_server import flow_server
from flows.document import members_of
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.text import aligned
from meshapi.row import SCHEMA
from meshkit.answer_form import AnswerForm

Answer = observer.ServerStatusResponse | observer.GetNodesResponse | observer.GetNamespacesResponse


def status(server: str, authorities: Sequence[str], cert: str, key: str, name: str, *, form: AnswerForm) -> None:
    """Raises: CommandError where it does not answer or is not healthy."""
    with flow_server(server, authorities, cert, key, name) as client:
        if not client.is_healthy():
            raise CommandError(f"{server}: not healthy")
        found = client.server_status()
    _print(found, [f"Healthcheck (via {server}): Ok", *status_lines(found)], form)


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


def nodes(server: str, authorities: Sequence[str], cert: str, key: str, name: str, *, form: AnswerForm) -> None:
    """Raises: CommandError, also where an observer is asked instead of a relay."""
    with flow_server(server, authorities, cert, key, name) as client:
        found = client.get_nodes()
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


def namespaces(server: str, authorities: Sequence[str], cert: str, key: str, name: str, *, form: AnswerForm) -> None:
    """Raises: CommandError."""
    with flow_server(server, authorities, cert, key, name) as client:
        found = client.get_namespaces()
    rows = [(row.namespace, row.cluster) for row in found.namespaces]
    _print(found, aligned([("NAMESPACE", "CLUSTER"), *rows]), form)


def _print(found: Answer, lines: Iterable[str], form: AnswerForm) -> None:
    """The lines, or the message by the names of its .proto."""
    print_answer({"schema": SCHEMA, **members_of(found)}, lines, form, Console(plain=True))
