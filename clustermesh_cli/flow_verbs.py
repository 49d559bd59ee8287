# SPDX-License-Identifier: Apache-2.0
"""`clustermesh observe` and `clustermesh flows`: Hubble's flags, which are parsed by `observe_wish`; the work is in commands/."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clustermesh_cli.default_server import DEFAULT_SERVER, SERVER_VARIABLE
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.verb_options import Output
from meshkit.answer_form import AnswerForm

flows = typer.Typer(help="What an observer or a relay of flows says of itself.", no_args_is_help=True)
listed = typer.Typer(help="List nodes or namespaces.", no_args_is_help=True)
flows.add_typer(listed, name="list")

Server = Annotated[str, typer.Option(help="host:port, tls://host:port or unix:///path of it", envvar=SERVER_VARIABLE)]
Authority = Annotated[list[str] | None, typer.Option("--tls-ca-cert-files", help="authorities of the server")]
Certificate = Annotated[str, typer.Option("--tls-client-cert-file", help="our certificate")]
Key = Annotated[str, typer.Option("--tls-client-key-file", help="its key")]
ServerName = Annotated[str, typer.Option("--tls-server-name", help="the name to expect")]


def observe(context: typer.Context) -> None:
    """Flows of the mesh, as `hubble observe` shows them and with its flags (--help lists them)."""
    from clustermesh_cli.observe_wish import parse_wish
    from flows.errors import FilterError, RequestError
    from meshkit.clock import SystemClock

    try:
        wish = parse_wish(context.args, os.environ.get(SERVER_VARIABLE, ""), SystemClock().wall())
    except (FilterError, RequestError) as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
    from clustermesh_cli.commands.observe import observe as verb

    raise typer.Exit(verb(wish))


@flows.command()
def status(
    server: Server = DEFAULT_SERVER,
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Whether it answers, how many flows it keeps and how fast they come."""
    from clustermesh_cli.commands.flow_status import status as verb

    verb(server, tls_ca_cert_files or [], tls_client_cert_file, tls_client_key_file, tls_server_name, form=output)


@listed.command()
def nodes(
    server: Server = DEFAULT_SERVER,
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """The nodes of a relay."""
    from clustermesh_cli.commands.flow_status import nodes as verb

    verb(server, tls_ca_cert_files or [], tls_client_cert_file, tls_client_key_file, tls_server_name, form=output)


@listed.command()
def namespaces(
    server: Server = DEFAULT_SERVER,
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """The namespaces in which there were flows within an hour, by cluster."""
    from clustermesh_cli.commands.flow_status import namespaces as verb

    verb(server, tls_ca_cert_files or [], tls_client_cert_file, tls_client_key_file, tls_server_name, form=output)
