# SPDX-License-Identifier: Apache-2.0
"""The clusters a command speaks to, by the contexts that were named; none is ever chosen because a name was empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from kube.client import KubeClient
from kube.config import list_contexts, load_client
from kube.errors import ConfigError, KubeError

IN_CLUSTER: Final = "in-cluster"


def open_cluster(kubeconfig: str | None, context: str | None) -> KubeClient:
    """A client for the context, the current one when None.

    Raises: CommandError (usage) for an empty context and for one that the kubeconfig does not have; ConfigError.
    """
    if context is not None and not context.strip():
        raise CommandError("--context is empty: name a context of the kubeconfig", ExitCode.USAGE)
    try:
        return load_client(kubeconfig, context)
    except ConfigError as exc:
        names = [found.name for found in list_contexts(kubeconfig)] if context else []
        if context is None or context in names:
            raise
        raise CommandError(
            f"the kubeconfig has no context {context}: there are {', '.join(names) or 'none'}", ExitCode.USAGE
        ) from exc


def split_contexts(given: Iterable[str]) -> list[str]:
    """Each context once, from repeated and comma-separated flags. Raises: CommandError (usage) when one is empty."""
    found = [part.strip() for text in given for part in text.split(",")]
    if not all(found):
        raise CommandError("--destination-context is empty: name a context of the kubeconfig", ExitCode.USAGE)
    return list(dict.fromkeys(found))


def open_clusters(
    kubeconfig: str | None, context: str | None, destinations: Sequence[str], done: str
) -> dict[str, KubeClient]:
    """The local cluster, then the destinations, by context.

    Raises: CommandError (usage) for a context that there is not; CommandRefusedError when the local one is a destination.
    """
    local = open_cluster(kubeconfig, context)
    own = context or local.context or IN_CLUSTER
    if own in destinations:
        which = "" if context else ", the current context,"
        raise CommandRefusedError(f"{own}{which} cannot be {done} itself: name another --destination-context")
    return {own: local, **{name: open_cluster(kubeconfig, name) for name in destinations}}


@contextmanager
def naming(context: str) -> Iterator[None]:
    """What an API server refuses is told with the context that it was asked in; verbs of several clusters need it."""
    try:
        yield
    except KubeError as exc:
        raise CommandError(f"{context}: {exc}" if context else str(exc)) from exc
