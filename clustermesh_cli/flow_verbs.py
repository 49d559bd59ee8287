# SPDX-License-Identifier: Apache-2.0
"""`clustermesh observe` and `clustermesh flows`: Hubble's flags, which are parsed by `observe_wish`; the work is in commands/."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.default_server import LOCAL_PORT, SERVER_VARIABLE
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Output, make_client
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm

if TYPE_CHECKING:
    from clustermesh_cli.commands.flow_status import FlowQuestion

flows = typer.Typer(help="What an observer or a relay of flows says of itself.", no_args_is_help=True)
hubble = typer.Typer(help="For Hubble's own command.", no_args_is_help=True)
listed = typer.Typer(help="List nodes or namespaces.", no_args_is_help=True)
flows.add_typer(listed, name="list")

Server = Annotated[
    str,
    typer.Option(
        help="host:port, tls://host:port or unix:///path of it; this cluster's relay or agents if not given",
        envvar=SERVER_VARIABLE,
    ),
]
Authority = Annotated[list[str] | None, typer.Option("--tls-ca-cert-files", help="authorities of the server")]
Certificate = Annotated[str, typer.Option("--tls-client-cert-file", help="our certificate")]
Key = Annotated[str, typer.Option("--tls-client-key-file", help="its key")]
MeshNamespace = Annotated[str, typer.Option("--mesh-namespace", help="where the mesh runs")]
Clusters = Annotated[
    list[str] | None, typer.Option(help="clusters whose flows are shown: all, or names; repeat; this one if not given")
]
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
    server: Server = "",
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    mesh_namespace: MeshNamespace = DEFAULT_NAMESPACE,
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Whether it answers, how many flows it keeps and how fast they come."""
    from clustermesh_cli.commands.flow_status import status as verb

    asked = _asked(server, tls_ca_cert_files, tls_client_cert_file, tls_client_key_file, tls_server_name,
                   context, kubeconfig, mesh_namespace)  # fmt: skip
    raise typer.Exit(verb(asked, output))


@listed.command()
def nodes(
    server: Server = "",
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    mesh_namespace: MeshNamespace = DEFAULT_NAMESPACE,
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """The nodes of a relay, or of the cluster."""
    from clustermesh_cli.commands.flow_status import nodes as verb

    verb(
        _asked(server, tls_ca_cert_files, tls_client_cert_file, tls_client_key_file, tls_server_name,
               context, kubeconfig, mesh_namespace),
        output,
    )  # fmt: skip


@listed.command()
def namespaces(
    server: Server = "",
    tls_ca_cert_files: Authority = None,
    tls_client_cert_file: Certificate = "",
    tls_client_key_file: Key = "",
    tls_server_name: ServerName = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    mesh_namespace: MeshNamespace = DEFAULT_NAMESPACE,
    *,
    output: Output = AnswerForm.TABLE,
) -> None:
    """The namespaces in which there were flows within an hour, by cluster."""
    from clustermesh_cli.commands.flow_status import namespaces as verb

    verb(
        _asked(server, tls_ca_cert_files, tls_client_cert_file, tls_client_key_file, tls_server_name,
               context, kubeconfig, mesh_namespace),
        output,
    )  # fmt: skip


def _asked(
    server: str,
    authorities: list[str] | None,
    cert: str,
    key: str,
    name: str,
    context: str | None,
    kubeconfig: str | None,
    namespace: str,
) -> FlowQuestion:
    from clustermesh_cli.commands.flow_status import FlowQuestion
    from clustermesh_cli.program_client import ProgramClient

    def programs() -> ProgramClient:
        return ProgramClient(make_client(kubeconfig, context), namespace)

    return FlowQuestion(server=server, authorities=authorities or [], cert=cert, key=key, name=name, programs=programs)


@hubble.command("port-forward")
def port_forward(
    port: Annotated[
        int, typer.Option("--port-forward", min=0, max=65535, help="the port here, on 127.0.0.1; 0: any")
    ] = LOCAL_PORT,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    clusters: Clusters = None,
) -> None:
    """Let Hubble's own command ask this cluster's relay at localhost, until interrupted."""
    from clustermesh_cli.commands.hubble_forward import forward
    from clustermesh_cli.program_client import ProgramClient

    forward(
        ProgramClient(make_client(kubeconfig, context), namespace), port, tuple(clusters or ()), Console(plain=True)
    )


def ui(
    port: Annotated[
        int, typer.Option("--port-forward", min=0, max=65535, help="the port here, on 127.0.0.1; 0: any")
    ] = 0,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    open_browser: Annotated[
        bool, typer.Option("--open-browser/--no-open-browser", help="open it where there is a browser")
    ] = True,
) -> None:
    """Show the page of this cluster's relay at localhost, until interrupted."""
    from clustermesh_cli.commands.page_proxy import show_page
    from clustermesh_cli.program_client import ProgramClient

    programs = ProgramClient(make_client(kubeconfig, context), namespace)
    show_page(programs, port, Console(plain=True), opens=open_browser)
