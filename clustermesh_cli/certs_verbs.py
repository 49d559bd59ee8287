# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh certs`; its work is in commands/certs.py."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Plain, make_client
from meshkit.clock import SystemClock

certs = typer.Typer(
    help="See this cluster's certificates, and renew them.", no_args_is_help=True, rich_markup_mode=None
)


@certs.command("show")
def certs_show(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "kube-system",
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")] = "table",
) -> None:
    """Every certificate and authority. Exit code 3 when one has expired or is in the last tenth of its life."""
    from clustermesh_cli.commands import certs as verb

    client = make_client(kubeconfig, context)
    raise typer.Exit(verb.show(client, namespace, Console(plain=True), output, SystemClock().wall()))


@certs.command("rotate")
def certs_rotate(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "kube-system",
    plain: Plain = False,
) -> None:
    """Issue this cluster's certificates anew, by the same authority; peers need not be told."""
    from clustermesh_cli.commands import certs as verb

    verb.rotate(make_client(kubeconfig, context), namespace, Console(plain=plain or None), SystemClock().wall())
