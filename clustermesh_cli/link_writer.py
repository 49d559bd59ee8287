# SPDX-License-Identifier: Apache-2.0
"""Writes the changes of a connection; when one of them, or the proof that they work, fails, all are taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import kube.resource as k
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.link_change import PEERING_OBJECTS, PEERING_SECRETS, Objects, SecretChange
from kube.client import KubeClient
from kube.errors import KubeError


def read_objects(clients: Mapping[str, KubeClient], namespace: str) -> Objects:
    """The objects that hold peers, of every cluster. Raises: KubeError."""
    return {
        (context, name): client.get(_kind(name), name, namespace)
        for context, client in clients.items()
        for name in PEERING_OBJECTS
    }


def write_changes(
    clients: Mapping[str, KubeClient], namespace: str, changes: Iterable[SecretChange], verify: Callable[[], None]
) -> None:
    """Every change is written and `verify` returned, or everything is as it was.

    Raises: CommandError with the cause and whether what was there is back.
    """
    begun: list[SecretChange] = []
    try:
        for change in changes:
            begun.append(change)  # before the write: one whose answer is lost may have been made
            _patch(clients, namespace, change.context, change.name, change.patch)
        verify()
    except (KubeError, CommandError, KeyboardInterrupt) as exc:
        outcome = _take_back(clients, namespace, begun)
        code = exc.code if isinstance(exc, CommandError) else ExitCode.INTERNAL
        raise CommandError(f"{str(exc) or 'interrupted'}; {outcome}", code) from exc


def _take_back(clients: Mapping[str, KubeClient], namespace: str, begun: Sequence[SecretChange]) -> str:
    """What a person is told about it."""
    left: dict[str, str] = {}
    for change in reversed(begun):
        try:
            _patch(clients, namespace, change.context, change.name, change.undo)
        except KubeError as exc:
            left[f"{change.name} of {change.context}"] = str(exc)
    if not left:
        return "what was there before is restored" if begun else "nothing was changed"
    return f"NOT restored: {'; '.join(f'{where} ({why})' for where, why in left.items())}; connect again"


def _patch(
    clients: Mapping[str, KubeClient], namespace: str, context: str, name: str, patch: Mapping[str, object]
) -> None:
    clients[context].patch_merge(_kind(name), name, dict(patch), namespace)


def _kind(name: str) -> k.Resource:
    return k.SECRETS if name in PEERING_SECRETS else k.CONFIG_MAPS
