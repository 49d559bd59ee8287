# SPDX-License-Identifier: Apache-2.0
"""The `clustermesh` command: flags and verbs. Each verb's work is in commands/; imports are deferred to keep --help quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from clustermesh_cli.certs_verbs import certs
from clustermesh_cli.config_verbs import config
from clustermesh_cli.console import Console
from clustermesh_cli.drain_verbs import drain, undrain
from clustermesh_cli.event_verbs import events
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.failure_document import print_failure
from clustermesh_cli.flow_verbs import flows, hubble, observe, ui
from clustermesh_cli.kv_verbs import kv
from clustermesh_cli.link_verbs import check, connect, disconnect
from clustermesh_cli.policy_verbs import explain, inspect_scope, policy
from clustermesh_cli.quick_parsing import only_named, take_plain_values
from clustermesh_cli.service_verbs import explain_service
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
from meshapi.installed import AGENT, APISERVER, DEFAULT_NAMESPACE, RELAY
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock
from meshkit.errors import MeshError
from meshkit.text import visible

app = typer.Typer(
    name="clustermesh",
    help="Make several Kubernetes clusters act as one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # loading rich takes as long as all the rest of --help
    context_settings={"max_content_width": 130, "help_option_names": ["-h", "--help"]},
)
app.add_typer(policy, name="policy")
app.add_typer(kv, name="kv")
app.add_typer(config, name="config")
app.add_typer(certs, name="certs")
app.add_typer(explain, name="explain")
explain.command("service")(explain_service)
app.command()(connect)
app.command()(check)
app.command()(disconnect)
app.command()(drain)
app.command()(undrain)
app.command()(events)
app.add_typer(flows, name="flows")
app.add_typer(hubble, name="hubble")
app.command()(ui)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(observe)
app.command("inspect-policy-default-local-cluster")(inspect_scope)


def _show_version(wanted: bool) -> None:
    if wanted:
        from meshkit.version import program_version

        print(f"clustermesh {program_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Make several Kubernetes clusters act as one."""


@app.command()
def enable(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    cluster_name: Annotated[str | None, typer.Option(help="this cluster's name in the mesh")] = None,
    cluster_id: Annotated[int | None, typer.Option(help="this cluster's id, 1 to 255; chosen when not given")] = None,
    service_type: Annotated[
        str | None,
        typer.Option(
            help="how peers reach us: NodePort, LoadBalancer or ClusterIP; as it is, or NodePort, if not given"
        ),
    ] = None,
    node_port: Annotated[
        int | None, typer.Option(help="the port on every node, with NodePort; as it is, or 32379, if not given")
    ] = None,
    drop_previous_endpoint: Annotated[
        bool,
        typer.Option(
            "--drop-previous-endpoint", help="close the ports that peers were told before; they were connected again"
        ),
    ] = False,
    advertise: Annotated[
        list[str] | None, typer.Option(help="extra name or address for the server certificate")
    ] = None,
    apiserver_image: Annotated[
        str | None, typer.Option(help=f"image of the apiserver; clustermesh/{APISERVER} of this version if not given")
    ] = None,
    agent_image: Annotated[
        str | None, typer.Option(help=f"image of the agent; clustermesh/{AGENT} of this version if not given")
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--enable-kvstoremesh/--no-enable-kvstoremesh",
            help="copy peers' records into this cluster's own store, for its agents; on unless chosen otherwise before",
        ),
    ] = None,
    with_relay: Annotated[
        bool | None,
        typer.Option(
            "--with-relay/--without-relay",
            help="run a relay, which merges the flows of all nodes and serves the page; off unless chosen otherwise before",
        ),
    ] = None,
    relay_image: Annotated[
        str | None, typer.Option(help=f"image of the relay; clustermesh/{RELAY} of this version if not given")
    ] = None,
    new_ca: Annotated[
        bool, typer.Option("--new-ca", help="make a new authority in place of a lost one that peers still trust")
    ] = False,
    certificate_lifetime: Annotated[
        float | None,
        typer.Option(
            help="how long a new certificate lasts: 720h; a year unless chosen otherwise before",
            parser=parse_duration,
            metavar="DURATION",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="agent.NAME=VALUE or apiserver.NAME=VALUE: a setting of that program, kept until it is set anew; repeat",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--print", help="print the objects, change nothing")] = False,
    plain: Plain = False,
) -> None:
    """Give this cluster a name, an id, certificates, and the mesh's programs."""
    from clustermesh_cli.commands import enable as verb
    from clustermesh_cli.manifests import load_settings
    from clustermesh_cli.plan.exposure import ExposureWish
    from clustermesh_cli.plan.program_settings import parse_settings
    from meshkit.version import program_version

    options = verb.EnableOptions(
        namespace,
        cluster_name,
        cluster_id,
        ExposureWish(service_type, node_port, drop_previous_endpoint),
        tuple(advertise or ()),
        apiserver_image or f"clustermesh/{APISERVER}:{program_version()}",
        agent_image or f"clustermesh/{AGENT}:{program_version()}",
        mirror,
        new_ca,
        certificate_lifetime,
        parse_settings(setting or [], load_settings()),
        with_relay,
        relay_image or f"clustermesh/{RELAY}:{program_version()}",
    )
    client = make_client(kubeconfig, context)
    if dry_run:
        verb.show(client, context or "", options)
        return
    verb.enable(client, context or "", options, make_console(plain), SystemClock().wall())


@app.command()
def disable(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    keep_ca: Annotated[
        bool, typer.Option("--keep-ca", help="keep the authority, so that peers need not trust a new one")
    ] = False,
    keep_identities: Annotated[
        bool, typer.Option("--keep-identities", help="keep the cluster's name, id and identities for the next enable")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="go on although a node has not confirmed; what stays there is said")
    ] = False,
    wait_duration: Wait = 120.0,
    plain: Plain = False,
) -> None:
    """Detach every node, then remove the mesh's programs and what they know from this cluster."""
    from clustermesh_cli.commands.disable import DisableOptions
    from clustermesh_cli.commands.disable import disable as verb

    options = DisableOptions(keep_ca, keep_identities, force, wait_duration)
    verb(make_client(kubeconfig, context), namespace, options, make_console(plain))


@app.command()
def status(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    wait: Annotated[bool, typer.Option("--wait", help="wait until everything is ready")] = False,
    wait_duration: Wait = 900.0,
    summary: Annotated[
        bool, typer.Option("--summary", help="only the workloads: desired, ready, available, images")
    ] = False,
    output: Output = AnswerForm.TABLE,
    plain: Plain = False,
) -> None:
    """Is the mesh well, as this cluster sees it? Exit code 0 well, 3 degraded, 5 not in time."""
    if summary:
        from clustermesh_cli.commands.installed import show_summary

        if wait:
            raise CommandError("--summary shows what is, and does not --wait", ExitCode.USAGE)
        raise typer.Exit(show_summary(make_client(kubeconfig, context), namespace, output, make_console(plain)))
    from clustermesh_cli.commands import status as verb

    code = verb.status(
        make_client(kubeconfig, context),
        namespace,
        make_console(plain),
        output,
        wait_s=wait_duration if wait else None,
    )
    raise typer.Exit(code)


@app.command()
def get(
    kind: Annotated[str, typer.Argument(help="clusters, peers, services, nodes, identities or endpoints")],
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    node: Annotated[
        str | None, typer.Option(help="as the agent of this node knows it; of any that answers if not given")
    ] = None,
    output: Output = AnswerForm.TABLE,
) -> None:
    """List what this cluster knows of the mesh, with cluster and age. Exit code 3 where no program answers."""
    from clustermesh_cli.commands.get import get as verb
    from clustermesh_cli.listed_rows import ListedKind
    from clustermesh_cli.program_client import ProgramClient

    if kind not in list(ListedKind):
        raise CommandError(f"{kind}: choose one of {', '.join(ListedKind)}", ExitCode.USAGE)
    programs = ProgramClient(make_client(kubeconfig, context), namespace)
    raise typer.Exit(verb(programs, ListedKind(kind), node, output, Console(plain=True)))


@app.command(
    "lab",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="A whole mesh on this machine: up, down, status, cut, heal, exec, walkthrough.",
)
def lab(context: typer.Context) -> None:
    """Hand over to the lab, which is a program of its own."""
    os.execv(sys.executable, [sys.executable, "-m", "lab", *context.args])


def run_app() -> int:
    """The exit code; every failure is one line that starts with "Error:", and its code means something."""
    take_plain_values()
    try:
        code = only_named(app, sys.argv[1:])(standalone_mode=False)
    except CommandError as exc:
        return _fail(str(exc), exc.code)
    except MeshError as exc:
        return _fail(str(exc), ExitCode.INTERNAL)
    except typer.Abort as exc:
        raise KeyboardInterrupt from exc
    except TyperException as exc:
        message = exc.format_message()
        if message.startswith("Usage: "):  # no verb was given: the help is the answer
            print(message, file=sys.stderr)
            return ExitCode.USAGE
        return _fail(f"{message.rstrip('.')}. See clustermesh --help.", ExitCode.USAGE)
    return code if isinstance(code, int) else ExitCode.OK


def _fail(message: str, code: ExitCode) -> ExitCode:
    print_failure(sys.argv[1:], message, code)
    print(f"Error: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code
