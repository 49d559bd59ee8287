# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh connect`, `check` and `disconnect`; their work is in commands/."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.verb_options import (
    ConnectionMode,
    Context,
    DestinationEndpoint,
    Kubeconfig,
    Namespace,
    Output,
    Plain,
    SourceEndpoint,
    Wait,
    make_client,
    make_console,
)
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock


def connect(
    destination_context: Annotated[
        list[str], typer.Option(help="context of a cluster to connect to; repeat or separate by commas")
    ],
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    connection_mode: ConnectionMode = Mode.BIDIRECTIONAL,
    source_endpoint: SourceEndpoint = None,
    destination_endpoint: DestinationEndpoint = None,
    peer_networks: Annotated[
        list[str] | None,
        typer.Option(
            help="pod networks a peer may own: [CONTEXT=]none (any), auto or CIDR,...; if not given: as before, at first auto"
        ),
    ] = None,
    allow_flows: Annotated[
        bool | None,
        typer.Option(
            "--allow-flows/--no-allow-flows",
            help="let the relay of who reads a cluster ask it for flows in which the reader takes part; "
            "as it is if not given, at first not",
        ),
    ] = None,
    allow_mismatching_ca: Annotated[
        bool,
        typer.Option(help="accepted for familiarity: every cluster has its own CA here, and bundles are exchanged"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, write nothing")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="wait until every agent has read its new peers")
    ] = True,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="let the clusters try each other's endpoints, before and after writing"
        ),
    ] = True,
    wait_duration: Wait = 120.0,
    plain: Plain = False,
) -> None:
    """Let clusters read each other. No private key leaves its cluster."""
    del allow_mismatching_ca
    from clustermesh_cli.commands import connect as verb
    from clustermesh_cli.commands import status as status_verb
    from clustermesh_cli.contexts import open_clusters, split_contexts
    from clustermesh_cli.link_proof import Patience
    from clustermesh_cli.plan.endpoint import split_endpoints
    from clustermesh_cli.plan.peer_networks import parse_choices

    destinations = split_contexts(destination_context)
    clients = open_clusters(kubeconfig, context, destinations, "connected to")
    endpoints = split_endpoints(next(iter(clients)), destinations, source_endpoint or [], destination_endpoint or [])
    console = make_console(plain)
    networks = parse_choices(peer_networks or [], next(iter(clients)), destinations)
    options = verb.ConnectOptions(connection_mode, endpoints, dry_run, verify, wait, networks, allow_flows)
    links = verb.connect(clients, namespace, options, console, Patience(wait_duration))
    if dry_run:
        return
    if wait:
        for reader in dict.fromkeys(link.reader.context for link in links):
            status_verb.wait_until_ready(clients[reader], namespace, console, wait_duration, context=reader)
    console.ok(verb.link_text(links, options.mode))


def check(
    destination_context: Annotated[
        list[str] | None, typer.Option(help="context of another cluster of the mesh; repeat or separate by commas")
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    connection_mode: ConnectionMode = Mode.BIDIRECTIONAL,
    source_endpoint: SourceEndpoint = None,
    destination_endpoint: DestinationEndpoint = None,
    matrix: Annotated[
        bool,
        typer.Option("--matrix", help="node to node, through the overlay, as the agents of these clusters probe it"),
    ] = False,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Look at everything that `connect` makes sure of. Exit code 4 if a check fails; with --matrix 3 if a way does not work."""
    from clustermesh_cli.commands import check as verb
    from clustermesh_cli.commands.check_matrix import check_matrix
    from clustermesh_cli.contexts import open_clusters, split_contexts
    from clustermesh_cli.plan.endpoint import split_endpoints
    from clustermesh_cli.program_client import ProgramClient

    destinations = split_contexts(destination_context or [])
    clients = open_clusters(kubeconfig, context, destinations, "compared with")
    console, clock = Console(plain=True), SystemClock()
    if matrix:
        if source_endpoint or destination_endpoint:
            raise CommandError("--matrix goes from node to node: endpoints have no part in it", ExitCode.USAGE)
        programs = {name: ProgramClient(client, namespace) for name, client in clients.items()}
        raise typer.Exit(check_matrix(programs, output, console, clock.wall))
    endpoints = split_endpoints(next(iter(clients)), destinations, source_endpoint or [], destination_endpoint or [])
    preflight = verb.Preflight(clients, namespace, connection_mode, endpoints, clock.wall)
    raise typer.Exit(verb.check(preflight, output, console))


def disconnect(
    peer: Annotated[str | None, typer.Argument(help="name of the peer to forget, in this cluster only")] = None,
    destination_context: Annotated[
        list[str] | None, typer.Option(help="context of a peer: both sides forget each other")
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    plain: Plain = False,
) -> None:
    """Stop reading a peer and stop letting it read us. Works when the peer is gone."""
    from clustermesh_cli.commands import disconnect as verb
    from clustermesh_cli.contexts import open_clusters, split_contexts

    if (peer is None) == (destination_context is None) or peer == "":
        raise CommandError("name either a PEER or --destination-context", ExitCode.USAGE)
    if peer is not None:
        local = make_client(kubeconfig, context)
        verb.disconnect_peer(local, namespace, context or local.context, peer, make_console(plain))
        return
    clients = open_clusters(kubeconfig, context, split_contexts(destination_context or []), "disconnected from")
    verb.disconnect_contexts(clients, namespace, make_console(plain))
