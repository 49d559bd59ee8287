# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh certs`; its work is in commands/certs.py."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.verb_options import (
    Context,
    Kubeconfig,
    Namespace,
    Output,
    Plain,
    Wait,
    make_client,
    make_console,
    parse_duration,
)
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock

certs = typer.Typer(
    help="See this cluster's certificates, and renew them.", no_args_is_help=True, rich_markup_mode=None
)


@certs.command("show")
def certs_show(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Every certificate and authority. Exit code 3 when one has expired or is in the last tenth of its life."""
    from clustermesh_cli.commands import certs as verb

    client = make_client(kubeconfig, context)
    raise typer.Exit(verb.show(client, namespace, Console(plain=True), output, SystemClock().wall()))


@certs.command("create")
def certs_create(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    cluster_name: Annotated[
        str | None, typer.Option(help="this cluster's name in the mesh; as it is if not given")
    ] = None,
    advertise: Annotated[
        list[str] | None, typer.Option(help="extra name or address for the server certificate")
    ] = None,
    certificate_lifetime: Annotated[
        float | None,
        typer.Option(
            help="how long a new certificate lasts: 720h; a year unless chosen otherwise before",
            parser=parse_duration,
            metavar="DURATION",
        ),
    ] = None,
    plain: Plain = False,
) -> None:
    """Make the authority and certificates that are missing or due. For a chart or GitOps: enable does it itself."""
    from clustermesh_cli.commands import certs_create as verb

    client = make_client(kubeconfig, context)
    wish = verb.CertificateWish(cluster_name, tuple(advertise or ()), certificate_lifetime)
    verb.create(client, namespace, wish, make_console(plain), SystemClock().wall())


@certs.command("rotate")
def certs_rotate(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    ca: Annotated[
        bool,
        typer.Option("--ca", help="replace the authority too, with both trusted for a while; goes on where it stopped"),
    ] = False,
    destination_context: Annotated[
        list[str] | None, typer.Option(help="with --ca: context of a peer to tell; repeat or separate by commas")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="with --ca: name of a peer that is gone and cannot be told")
    ] = None,
    settle: Annotated[
        float,
        typer.Option(
            help="with --ca: how long programs may take to see a Secret that changed",
            parser=parse_duration,
            metavar="DURATION",
        ),
    ] = 150.0,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="with --ca: go on until it is done, or stop where waiting is needed"),
    ] = True,
    wait_duration: Wait = 900.0,
    plain: Plain = False,
) -> None:
    """Issue this cluster's certificates anew, by the same authority unless --ca is given; sessions go on."""
    console = Console(plain=plain or None)
    if not ca:
        if destination_context or without:
            raise CommandError("--destination-context and --without belong to --ca", ExitCode.USAGE)
        from clustermesh_cli.commands import certs as verb

        verb.rotate(make_client(kubeconfig, context), namespace, console, SystemClock().wall())
        return
    from clustermesh_cli.commands.replace_authority import AuthorityReplacement, ReplacementOptions
    from clustermesh_cli.contexts import open_clusters, split_contexts
    from clustermesh_cli.link_proof import Patience

    clients = open_clusters(
        kubeconfig, context, split_contexts(destination_context or []), "told of its own authority by"
    )
    own, *others = clients
    options = ReplacementOptions({name: clients[name] for name in others}, frozenset(without or ()), settle, wait)
    replacement = AuthorityReplacement(clients[own], namespace, options, console, wall=SystemClock().wall)
    raise typer.Exit(replacement.run(Patience(wait_duration)))
