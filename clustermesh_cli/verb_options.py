# SPDX-License-Identifier: Apache-2.0
"""The options that several verbs of `clustermesh` share, and the client that they lead to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from clustermesh_cli.answer_form import parse_answer_form
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.connection_mode import Mode, parse_mode
from meshkit.answer_form import AnswerForm

if TYPE_CHECKING:
    from clustermesh_cli.console import Console
    from kube.client import KubeClient

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(text: str | float) -> float:
    """Seconds, from plain seconds or Go's form: 90, 5m, 1h30m. Raises: CommandError (usage)."""
    try:
        seconds = float(text)
    except ValueError:
        if not _DURATION.fullmatch(str(text)):
            raise CommandError(f"{text!r} is no duration: write seconds, or 90s, 5m, 1h30m", ExitCode.USAGE) from None
        return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(str(text)))
    if not 0 <= seconds < float("inf"):
        raise CommandError(f"{text!r} is no duration: it must not be negative or endless", ExitCode.USAGE)
    return seconds


Context = Annotated[str | None, typer.Option("--context", help="kubeconfig context; the current one by default")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", help="path of the kubeconfig", envvar="KUBECONFIG")]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="where the mesh runs", envvar="CLUSTERMESH_NAMESPACE")
]
Plain = Annotated[bool, typer.Option("--plain", help="words instead of symbols; automatic when not a terminal")]
Wait = Annotated[
    float,
    typer.Option("--wait-duration", help="how long to wait at most: 90, 5m", parser=parse_duration, metavar="DURATION"),
]
Output = Annotated[
    AnswerForm,
    typer.Option("--output", "-o", help="table, json or yaml", parser=parse_answer_form, metavar="FORM"),
]

ConnectionMode = Annotated[
    Mode,
    typer.Option("--connection-mode", help="unicast, bidirectional or mesh", parser=parse_mode, metavar="MODE"),
]
SourceEndpoint = Annotated[
    list[str] | None, typer.Option("--source-endpoint", help="HOST:PORT by which others reach the local cluster")
]
DestinationEndpoint = Annotated[
    list[str] | None,
    typer.Option("--destination-endpoint", help="[CONTEXT=]HOST:PORT by which a destination is reached"),
]


def make_client(kubeconfig: str | None, context: str | None) -> KubeClient:
    """A client of the context's cluster. Raises: CommandError for one that does not exist."""
    import logging

    from clustermesh_cli.contexts import open_cluster

    logging.basicConfig(level=logging.ERROR)  # what libraries have to say is said in our own words
    return open_cluster(kubeconfig, context)


def make_console(plain: bool) -> Console:
    """Where a verb writes: words instead of symbols where that is asked for, or where the output is no terminal."""
    from clustermesh_cli.console import Console

    return Console(plain=True if plain else None)
