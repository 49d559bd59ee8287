# SPDX-License-Identifier: Apache-2.0
"""Writes what connects or parts clusters; when a write, or the proof that it works, fails, all writes are taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kube.resource as k
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.link_change import (
    PEERING_OBJECTS,
    PEERING_SECRETS,
    LinkChange,
    LinkStep,
    Objects,
    restoring_patch,
)
from clustermesh_cli.plan.link_run import MAX_COLLISIONS, DecideSteps, LinkMove, LinkRun, contexts_of
from kube.client import KubeClient
from kube.errors import Conflict, KubeError


def read_objects(clients: Mapping[str, KubeClient], namespace: str) -> Objects:
    """The objects that hold peers, of every cluster. Raises: KubeError."""
    return {
        (context, name): client.get(_kind(name), name, namespace)
        for context, client in clients.items()
        for name in PEERING_OBJECTS
    }


def write_steps(
    clients: Mapping[str, KubeClient], namespace: str, decide_steps: DecideSteps, verify: Callable[[], None]
) -> None:
    """All is as the steps want it and `verify` returned, or what this call wrote is taken back.

    What is written next is decided anew from what is there, and every write names the version it was decided from: what
    somebody else writes at the same time stays. Raises: CommandError with the cause and whether what was there is back.
    """
    writer = _Writer(clients, namespace)
    try:
        writer.write_all(decide_steps)
        verify()
    except (KubeError, CommandError, KeyboardInterrupt) as exc:
        outcome = writer.take_back()
        code = exc.code if isinstance(exc, CommandError) else ExitCode.INTERNAL
        raise CommandError(f"{str(exc) or 'interrupted'}; {outcome}", code) from exc


class _Writer:
    def __init__(self, clients: Mapping[str, KubeClient], namespace: str) -> None:
        self._clients, self._namespace = clients, namespace
        self._run = LinkRun()

    def write_all(self, decide_steps: DecideSteps) -> None:
        while True:
            move, change = self._run.next_move()
            match move:
                case LinkMove.LOOK:
                    self._look(tuple(decide_steps()))
                case LinkMove.WRITE:
                    assert change is not None
                    self._write(change)
                case LinkMove.DONE:
                    return
                case LinkMove.GIVE_UP:
                    raise CommandError(
                        "409 Conflict: somebody else changes the same peers all the time: find out who connects or disconnects "
                        "these clusters, then run this again"
                    )

    def _look(self, steps: Sequence[LinkStep]) -> None:
        clients = {context: self._clients[context] for context in contexts_of(steps)}
        self._run = self._run.looked(steps, read_objects(clients, self._namespace))

    def _write(self, change: LinkChange) -> None:
        place = change.context, change.name
        self._run = self._run.begin(change)
        try:
            after = self._patch(place, change.before, change.patch)
        except Conflict:
            self._run = self._run.collided()
        else:
            self._run = self._run.wrote(change, after)

    def take_back(self) -> str:
        """What a person is told about it."""
        left: dict[str, str] = {}
        finished: dict[str, None] = {}
        for change in reversed(self._run.begun):
            try:
                if self._is_finished_by_others(change):
                    finished[change.link] = None
                else:
                    self._undo(change)
            except (KubeError, CommandError) as exc:
                left[f"{change.name} of {change.context}"] = str(exc)
        if finished and not left:
            return f"what somebody else finished meanwhile is left ({', '.join(finished)}), the rest is restored"
        if not left:
            return "what was there before is restored" if self._run.begun else "nothing was changed"
        return f"NOT restored: {'; '.join(f'{where} ({why})' for where, why in left.items())}; connect again"

    def _is_finished_by_others(self, change: LinkChange) -> bool:
        clients = {context: self._clients[context] for context in contexts_of(self._run.steps)}
        try:
            return self._run.is_finished_by_others(change, read_objects(clients, self._namespace))
        except KubeError:
            return False  # of a cluster that does not answer nobody knows more

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
