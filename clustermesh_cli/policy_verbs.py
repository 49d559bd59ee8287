# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh policy`, `explain policy` and `inspect-policy-default-local-cluster`; their work is in commands/."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Output, Plain, make_client, make_console
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock

Ranges = Annotated[
    int | None,
    typer.Option(
        "--policy-ranges-per-namespace",
        min=0,
        help="address ranges that policies of one namespace may name, as the agents are set; 32768 by default",
    ),
]
policy = typer.Typer(
    help="Ask what policies do, before and after applying them.", no_args_is_help=True, rich_markup_mode=None
)
explain = typer.Typer(
    help="Ask why: may this pod talk to that one, where does a service lead, and who says so.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@policy.command("eval")
def policy_eval(
    file: Annotated[
        typer.FileText, typer.Option("--file", "-f", help="a case, or a list of cases, as JSON or YAML; - for stdin")
    ],
    ranges: Ranges = None,
    output: Output = AnswerForm.JSON,
) -> None:
    """Evaluate policies offline: verdicts of flows between labelled identities."""
    from clustermesh_cli.commands.policy import evaluate_file
    from clustermesh_cli.policy_settings import DEFAULTS

    try:
        text = file.read()
    except UnicodeDecodeError as exc:
        raise CommandError(f"{file.name}: {exc}", ExitCode.USAGE) from exc
    evaluate_file(text, output, sys.stdout, DEFAULTS.with_ranges(ranges).limits)


@policy.command("lint")
def policy_lint(
    files: Annotated[list[str], typer.Argument(help="manifests, or directories of them; - for stdin")],
    cluster: Annotated[str, typer.Option(help="name of the cluster they are meant for")] = "default",
    default_local_cluster: Annotated[bool, typer.Option(help="what an unscoped selector means")] = True,
    ranges: Ranges = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="take name, settings and the identities that exist from the cluster of --context"),
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="only how many findings, and how many policies are enforced as written")
    ] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Find what people trip over in policies. Exit code 4 for a document in error, 3 for one that is not enforced as written."""
    from clustermesh_cli.commands.policy import lint_files, lint_live
    from clustermesh_cli.policy_settings import PolicySettings

    if live:
        client = make_client(kubeconfig, context)
        raise typer.Exit(lint_live(files, client, namespace, is_summary=summary, form=output))
    settings = PolicySettings(default_local_cluster).with_ranges(ranges)
    code = lint_files(files, cluster, settings, is_summary=summary, form=output)
    raise typer.Exit(code)


@policy.command("diff")
def policy_diff(
    file: Annotated[str, typer.Argument(help="manifest that would be applied; - for stdin")] = "",
    staged: Annotated[
        bool, typer.Option("--staged", help="the policies that are staged, as if they were in force")
    ] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
    plain: Plain = False,
) -> None:
    """Which identity pairs of the live mesh the cluster of --context would judge differently. Changes nothing."""
    from clustermesh_cli.commands.policy_diff import diff

    if not file and not staged:
        raise CommandError("name a manifest, or say --staged", ExitCode.USAGE)
    client, console = make_client(kubeconfig, context), make_console(plain)
    raise typer.Exit(diff(file, client, namespace, output, console, with_staged=staged))


@policy.command("suggest")
def policy_suggest(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="of the pods; all by default")] = "",
    since: Annotated[str, typer.Option(help="only flows since then: 10m, or a time")] = "10m",
    allowed_only: Annotated[bool, typer.Option("--allowed-only", help="leave out what is dropped now")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    mesh_namespace: Annotated[str, typer.Option(help="where the mesh runs")] = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
    plain: Plain = False,
) -> None:
    """The smallest policies that allow the flows of the cluster of --context, with the flows each rule came from."""
    from clustermesh_cli.commands.policy_suggest import suggest_policies
    from clustermesh_cli.observe_wish import parse_time
    from flows.errors import RequestError

    try:
        since_s = parse_time(since, SystemClock().wall()) / 1e9
    except RequestError as exc:
        raise CommandError(f"--since: {exc}", ExitCode.USAGE) from exc
    code = suggest_policies(
        make_client(kubeconfig, context),
        mesh_namespace,
        namespace,
        since_s,
        make_console(plain),
        form=output,
        with_dropped=not allowed_only,
    )
    raise typer.Exit(code)


@explain.command("policy")
def explain_policy(
    source: Annotated[str, typer.Option("--from", help="NAMESPACE/POD[@CLUSTER] or an address")],
    destination: Annotated[str, typer.Option("--to", help="NAMESPACE/POD[@CLUSTER] or an address")],
    port: Annotated[str, typer.Option("--port", help="80/TCP, a port name of the destination, 8/ICMP")],
    http: Annotated[str, typer.Option("--http", help='a request over it: "GET /path"')] = "",
    dns: Annotated[str, typer.Option("--dns", help="a name that is asked for over it")] = "",
    tls: Annotated[str, typer.Option("--tls", help="the server's name that TLS over it begins with")] = "",
    context: Context = None,
    destination_context: Annotated[
        list[str] | None,
        typer.Option(help="context of another cluster that may be asked; repeat or separate by commas"),
    ] = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="also every rule that does not apply")] = False,
    plain: Plain = False,
) -> None:
    """May a connection, and what is asked over it, pass, and which rule decides? Exit code 0 allowed, 4 denied, 3 not known."""
    from clustermesh_cli.commands.explain import explain as verb
    from clustermesh_cli.commands.explain import read_asked
    from clustermesh_cli.contexts import split_contexts

    asked = read_asked(http, dns, tls)
    contexts = split_contexts(destination_context or [])
    local = make_client(kubeconfig, context)
    clients = {context or local.context: local, **{c: make_client(kubeconfig, c) for c in contexts}}
    code = verb(
        clients,
        namespace,
        (source, destination),
        port,
        make_console(plain),
        asked=asked,
        wall_s=SystemClock().wall(),
        form=output,
        verbose=verbose,
    )
    raise typer.Exit(code)


def inspect_scope(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="namespace of the policies")] = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    mesh_namespace: Annotated[str, typer.Option(help="where the mesh runs")] = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
    plain: Plain = False,
) -> None:
    """Which policies mean something else once unscoped selectors stay in their own cluster, and for which peers."""
    from clustermesh_cli.commands.scope import inspect_scope as verb

    code = verb(
        make_client(kubeconfig, context),
        mesh_namespace,
        None if all_namespaces else namespace,
        make_console(plain),
        output,
    )
    raise typer.Exit(code)
