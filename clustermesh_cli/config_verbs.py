# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh config`; its work is in commands/installed.py."""

from __future__ import annotations

from typing import Annotated

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, make_client
from meshapi.installed import DEFAULT_NAMESPACE

config = typer.Typer(help="See this cluster's settings.", no_args_is_help=True, rich_markup_mode=None)


@config.command("view")
def config_view(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")] = "table",
) -> None:
    """Every setting, one a line."""
    from clustermesh_cli.answer_form import parse_answer_form
    from clustermesh_cli.commands.installed import view_settings

    form = parse_answer_form(output)
    view_settings(make_client(kubeconfig, context), namespace, form, Console(plain=True))
