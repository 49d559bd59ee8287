# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh drain` and `undrain`; their work is in commands/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Plain, Wait, make_console
from meshapi.installed import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from kube.client import KubeClient

Cluster = Annotated[str, typer.Argument(help="name of the cluster", metavar="CLUSTER")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--destination-context", help="context of another cluster that does the same; repeat or separate by commas"
    ),
]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="wait until every agent does so")]


def drain(
    cluster: Cluster,
    context: Context = None,
    destination_context: Others = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    wait: Waits = True,
    wait_duration: Wait = 60.0,
    plain: Plain = False,
) -> None:
    """Keep new connections of this cluster's clients away from a cluster: a peer, or this one. Open connections stay."""
    from clustermesh_cli.commands.drain import drain as verb

    verb(
        _open(kubeconfig, context, destination_context),
        namespace,
        cluster,
        make_console(plain),
        wait_duration if wait else None,
    )


def undrain(
    cluster: Cluster,
    context: Context = None,
    destination_context: Others = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    wait: Waits = True,
    wait_duration: Wait = 60.0,
    plain: Plain = False,
) -> None:
    """Let a drained cluster take new connections again."""
    from clustermesh_cli.commands.drain import undrain as verb

    verb(
        _open(kubeconfig, context, destination_context),
        namespace,
        cluster,
        make_console(plain),
        wait_duration if wait else None,
    )


def _open(kubeconfig: str | None, context: str | None, others: list[str] | None) -> dict[str, KubeClient]:
    from clustermesh_cli.contexts import open_clusters, split_contexts

    return open_clusters(kubeconfig, context, split_contexts(others or []), "named beside")
