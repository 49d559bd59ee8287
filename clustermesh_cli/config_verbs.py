# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh config`; its work is in commands/installed.py."""

from __future__ import annotations

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, Output, make_client
from meshapi.installed import DEFAULT_NAMESPACE
from meshkit.answer_form import AnswerForm

config = typer.Typer(help="See this cluster's settings.", no_args_is_help=True, rich_markup_mode=None)


@config.command("view")
def config_view(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Output = AnswerForm.TABLE,
) -> None:
    """Every setting, one a line."""
    from clustermesh_cli.commands.installed import view_settings

    view_settings(make_client(kubeconfig, context), namespace, output, Console(plain=True))
