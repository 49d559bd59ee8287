# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh events`; its work is in commands/."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Output, parse_duration
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock


def events(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    destination_context: Annotated[
        list[str] | None, typer.Option(help="context of another cluster that tells too; repeat or separate by commas")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what happens from now on")] = False,
    since: Annotated[str, typer.Option(help="only later ones: 10m, or an RFC 3339 time")] = "",
    kind: Annotated[str, typer.Option(help="only session, node, certificate, policy, program or object")] = "",
    cluster: Annotated[str, typer.Option(help="only where this cluster has a part, by its name")] = "",
    limit: Annotated[int, typer.Option(min=0, max=2000, help="the newest so many; with --follow 0, no limit")] = 0,
    output: Output = AnswerForm.TABLE,
) -> None:
    """What happened to sessions, nodes, certificates, policies and programs. Exit code 3 where a program does not tell."""
    from clustermesh_cli.contexts import open_clusters, split_contexts
    from clustermesh_cli.program_client import ProgramClient
    from clustermesh_cli.told_events import EventWish
    from meshapi.event import EventKind

    if kind and kind not in list(EventKind):
        raise CommandError(f"--kind {kind}: choose one of {', '.join(EventKind)}", ExitCode.USAGE)
    wish = EventWish(_parse_since(since), kind, cluster, limit or 500)
    clients = open_clusters(kubeconfig, context, split_contexts(destination_context or []), "compared with")
    programs = {name: ProgramClient(client, namespace) for name, client in clients.items()}
    console = Console(plain=True)
    if follow:
        from clustermesh_cli.commands import follow_events as following

        def complain(sentence: str) -> None:
            typer.echo(f"WARN {sentence}", err=True)

        following.follow(following.Followed(programs, wish, complain), output, console, limit=limit)
        return
    from clustermesh_cli.commands.events import events as verb

    raise typer.Exit(verb(programs, wish, output, console))


def _parse_since(text: str) -> str:
    """A time as events have it. Raises: CommandError (usage)."""
    from meshapi.event import event_time, parse_event_time

    if not text:
        return ""
    try:
        return parse_event_time(text)
    except ValueError:
        return event_time(SystemClock().wall() - parse_duration(text))
