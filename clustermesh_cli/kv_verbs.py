# SPDX-License-Identifier: Apache-2.0
"""The flags of `clustermesh kv`; its work is in commands/kv.py."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from clustermesh_cli.console import Console
from clustermesh_cli.verb_options import Context, Kubeconfig, Namespace, make_client
from meshapi.installed import DEFAULT_NAMESPACE
from meshmodel.keys import ROOT

kv = typer.Typer(
    help="Look into this cluster's store: every record, decoded.", no_args_is_help=True, rich_markup_mode=None
)
Form = Annotated[str, typer.Option("--output", "-o", help="table, json, yaml or raw (with ls: keys only)")]
EVERYTHING: Final = ROOT.decode()
Prefix = Annotated[str, typer.Argument(help="what the keys begin with")]


@kv.command("ls")
def kv_ls(
    prefix: Prefix = EVERYTHING,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Form = "table",
) -> None:
    """Every key under a prefix with its record, and why a reader would refuse it."""
    from clustermesh_cli.commands import kv as verb

    verb.ls(
        verb.ReadableStore(make_client(kubeconfig, context), namespace),
        prefix,
        verb.parse_form(output),
        Console(plain=True),
    )


@kv.command("get")
def kv_get(
    key: Annotated[str, typer.Argument(help="the whole key")],
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Form = "table",
) -> None:
    """One record, spelled out."""
    from clustermesh_cli.commands import kv as verb

    verb.get(
        verb.ReadableStore(make_client(kubeconfig, context), namespace),
        key,
        verb.parse_form(output),
        Console(plain=True),
    )


@kv.command("watch")
def kv_watch(
    prefix: Prefix = EVERYTHING,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    output: Form = "table",
    limit: Annotated[int, typer.Option(help="stop after so many lines; 0: never")] = 0,
) -> None:
    """What is under a prefix, then every change as it comes."""
    from clustermesh_cli.commands import kv as verb

    store, form = verb.ReadableStore(make_client(kubeconfig, context), namespace), verb.parse_form(output)
    verb.watch(store, prefix, form, Console(plain=True), limit=limit)
