# SPDX-License-Identifier: Apache-2.0
"""Writes what connects or parts clusters; when a write, or the proof that it works, fails, all writes are taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import kube.resource as k
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.link_change import (
    PEERING_OBJECTS,
    PEERING_SECRETS,
    LinkChange,
    LinkStep,
    Objects,
    next_change,
    plan_changes,
    restoring_patch,
)
from kube.client import KubeClient
from kube.errors import Conflict, KubeError

MAX_COLLISIONS: Final = 20


def read_objects(clients: Mapping[str, KubeClient], namespace: str) -> Objects:
    """The objects that hold peers, of every cluster. Raises: KubeError."""
    return {
        (context, name): client.get(_kind(name), name, namespace)
        for context, client in clients.items()
        for name in PEERING_OBJECTS
    }


def write_steps(
    clients: Mapping[str, KubeClient], namespace: str, steps: Iterable[LinkStep], verify: Callable[[], None]
) -> None:
    """All is as the steps want it and `verify` returned, or what this call wrote is taken back.

    What is written next is decided anew from what is there, and every write names the version it was decided from: what
    somebody else writes at the same time stays. Raises: CommandError with the cause and whether what was there is back.
    """
    writer = _Writer(clients, namespace, tuple(steps))
    try:
        writer.write_all()
        verify()
    except (KubeError, CommandError, KeyboardInterrupt) as exc:
        outcome = writer.take_back()
        code = exc.code if isinstance(exc, CommandError) else ExitCode.INTERNAL
        raise CommandError(f"{str(exc) or 'interrupted'}; {outcome}", code) from exc


class _Writer:
    def __init__(self, clients: Mapping[str, KubeClient], namespace: str, steps: Sequence[LinkStep]) -> None:
        self._clients, self._namespace, self._steps = clients, namespace, steps
        self._begun: list[LinkChange] = []

    def write_all(self) -> None:
        contexts = dict.fromkeys(step.context for step in self._steps)
        objects = dict(read_objects({context: self._clients[context] for context in contexts}, self._namespace))
        plan_changes(self._steps, objects)  # refuses what cannot be carried through, before the first write
        collisions = 0
        while (change := next_change(self._steps, objects)) is not None:
            place = change.context, change.name
            self._begun.append(change)  # before the write: one whose answer is lost may have been made
            try:
                objects[place] = self._patch(place, change.before, change.patch)
            except Conflict:
                self._begun.pop()
                collisions += 1
                if collisions > MAX_COLLISIONS:
                    raise
                objects[place] = self._read(place)

    def take_back(self) -> str:
        """What a person is told about it."""
        left: dict[str, str] = {}
        for change in reversed(self._begun):
            try:
                self._undo(change)
            except KubeError as exc:
                left[f"{change.name} of {change.context}"] = str(exc)
        if not left:
            return "what was there before is restored" if self._begun else "nothing was changed"
        return f"NOT restored: {'; '.join(f'{where} ({why})' for where, why in left.items())}; connect again"

    def _undo(self, change: LinkChange) -> None:
        place = change.context, change.name
        for is_last in (*[False] * MAX_COLLISIONS, True):
            now = self._read(place)
            patch = restoring_patch(change, now or {})
            if now is None or not patch:
                return
            try:
                self._patch(place, now, patch)
                return
            except Conflict:
                if is_last:
                    raise

    def _read(self, place: tuple[str, str]) -> Mapping[str, Any] | None:
        context, name = place
        return self._clients[context].get(_kind(name), name, self._namespace)

    def _patch(self, place: tuple[str, str], seen: Mapping[str, Any], patch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The object after the patch. Raises: Conflict if it is no longer the one that was seen."""
        context, name = place
        version = (seen.get("metadata") or {}).get("resourceVersion")
        body = (
            {**patch, "metadata": {**(patch.get("metadata") or {}), "resourceVersion": version}} if version else patch
        )
        return self._clients[context].patch_merge(_kind(name), name, dict(body), self._namespace)


def _kind(name: str) -> k.Resource:
    return k.SECRETS if name in PEERING_SECRETS else k.CONFIG_MAPS
