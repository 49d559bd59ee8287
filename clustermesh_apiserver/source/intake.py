# SPDX-License-Identifier: Apache-2.0
"""One kind of Kubernetes object on its way into its table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from clustermesh_apiserver.tables import IntentTable
from kube.reflector import Change, Delete, Synced, Upsert
from kube.resource import KubeObject, Resource, object_key

log = logging.getLogger(__name__)

T = TypeVar("T")

LOGGED_UNREADABLE: Final = 10


class Intake(Generic[T]):
    """What a kind's objects become and whom their changes concern.

    `changed` gets the key and the row before and after; `settle` is called after each batch. An object that cannot be
    understood counts as absent and is counted in `unreadable`.
    """

    def __init__(
        self,
        resource: Resource,
        read: Callable[[KubeObject], T | None],
        table: IntentTable[T],
        changed: Callable[[str, T | None, T | None], None],
        settle: Callable[[], None],
    ) -> None:
        self.resource, self.table = resource, table
        self._read, self._changed, self._settle = read, changed, settle
        self.unreadable = 0

    def strip(self, obj: KubeObject) -> T | None:
        """The object's row; runs in the reflector's thread and never raises."""
        try:
            return self._read(obj)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            self.unreadable += 1
            if self.unreadable <= LOGGED_UNREADABLE:
                facts = {"key": f"{self.resource.plural} {object_key(obj)}", "error": repr(exc)}
                log.warning("kubernetes object not understood, it counts as absent", extra=facts)
            return None

    def take(self, batch: Sequence[Change[T | None]]) -> None:
        """The table is as the batch leaves it."""
        for change in batch:
            match change:
                case Upsert(key, row) if row is not None:
                    before = self.table.get(key)
                    if self.table.put(key, row):
                        self._changed(key, before, row)
                case Upsert(key, _) | Delete(key, _):
                    before = self.table.delete(key)
                    if before is not None:
                        self._changed(key, before, None)
                case Synced():
                    for key, before in self.table.end_listing():
                        self._changed(key, before, None)
                    log.info("kubernetes listing complete", extra={"key": self.resource.plural})
        self._settle()
