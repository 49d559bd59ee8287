# SPDX-License-Identifier: Apache-2.0
"""One kind of Kubernetes object on its way into its table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from clustermesh_apiserver.problems import VALUE_LEFT_OUT, Problems, Subject
from clustermesh_apiserver.tables import IntentTable
from kube.reflector import Change, Delete, Synced, Upsert
from kube.resource import KubeObject, Resource
from kubeintent.read import Read, UnreadableError

log = logging.getLogger(__name__)

T = TypeVar("T")

LOGGED_UNREADABLE: Final = 10


class Intake(Generic[T]):
    """The rows that a kind's objects become, and whom their changes concern.

    `changed` gets the key and the row before and after; `settle` is called after each batch. Values of an object that are
    left out are told to `problems`. An object without a name counts as absent and is counted in `unreadable`.
    """

    def __init__(
        self,
        resource: Resource,
        read: Callable[[KubeObject], Read[T]],
        table: IntentTable[T],
        changed: Callable[[str, T | None, T | None], None],
        *,
        settle: Callable[[], None],
        problems: Problems,
    ) -> None:
        self.resource, self.table = resource, table
        self._read, self._changed, self._settle, self._problems = read, changed, settle, problems
        self.unreadable = 0

    def strip(self, obj: KubeObject) -> Read[T]:
        """What the object says; runs in the reflector's thread and never raises."""
        try:
            return self._read(obj)
        except UnreadableError as exc:
            self.unreadable += 1
            if self.unreadable <= LOGGED_UNREADABLE:
                facts = {"key": self.resource.plural, "error": str(exc)}
                log.warning("kubernetes object not understood, it counts as absent", extra=facts)
            return Read(None)

    def take(self, batch: Sequence[Change[Read[T]]]) -> None:
        """The table is as the batch leaves it."""
        for change in batch:
            match change:
                case Upsert(key, read):
                    self._put(key, read)
                case Delete(key, _):
                    self._remove(key)
                case Synced():
                    for key, before in self.table.end_listing():
                        self._changed(key, before, None)
                    log.info("kubernetes listing complete", extra={"key": self.resource.plural})
        self._settle()

    def _put(self, key: str, read: Read[T]) -> None:
        if read.problems or self._problems.knows(self.resource, key):
            self._problems.set_problems(Subject(self.resource, key, read.uid), VALUE_LEFT_OUT, read.problems)
        before = self.table.get(key)
        if read.row is None:
            if self.table.delete(key) is not None:
                self._changed(key, before, None)
        elif self.table.put(key, read.row):
            self._changed(key, before, read.row)

    def _remove(self, key: str) -> None:
        self._problems.forget(self.resource, key)
        before = self.table.delete(key)
        if before is not None:
            self._changed(key, before, None)
