# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh explain service`; its work is in commands/."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Output, Plain, make_client, make_console
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm


def explain_service(
    service: Annotated[str, typer.Argument(help="NAMESPACE/NAME", metavar="SERVICE")],
    node: Annotated[
        str | None, typer.Option(help="as this node sees it; the first whose agent answers if not given")
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
    plain: Plain = False,
) -> None:
    """Where new connections of a service go, by which rule, and why other backends get none. Exit code 3 if not as asked for."""
    from clustermesh_cli.commands.explain_service import explain_service as verb
    from clustermesh_cli.program_client import ProgramClient

    programs = ProgramClient(make_client(kubeconfig, context), namespace)
    raise typer.Exit(verb(programs, service, node, output, make_console(plain)))
