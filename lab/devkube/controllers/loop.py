# SPDX-License-Identifier: Apache-2.0
"""Runs controllers whenever something they look at changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError
from lab.devkube.api.resource import ResourceKey
from lab.devkube.api.store import ObjectEvent

log = logging.getLogger(__name__)
RETRY_S = 0.5


class Controller(Protocol):
    """`reconcile` brings the cluster one step nearer to what its objects ask for; it may be called at any time."""

    name: str
    watches: frozenset[ResourceKey]

    def reconcile(self) -> None:
        """Look at everything, write what differs."""


class ControllerLoop:
    """Calls each controller once at the start and again after every change of what it watches."""

    def __init__(self, cluster: Cluster, controllers: Sequence[Controller]) -> None:
        self._cluster, self._controllers = cluster, tuple(controllers)
        self._dirty = set(range(len(self._controllers)))
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Never returns; ends by cancellation."""
        unsubscribe = self._cluster.subscribe(self._note)
        try:
            while True:
                self._wake.clear()
                self._round()
                if self._dirty:
                    # give requests and watches their turn between two rounds
                    await asyncio.sleep(0)
                else:
                    await self._wake.wait()
        finally:
            unsubscribe()

    def _note(self, event: ObjectEvent) -> None:
        for index, controller in enumerate(self._controllers):
            if event.resource.key in controller.watches:
                self._dirty.add(index)
                self._wake.set()

    def _round(self) -> None:
        due, self._dirty = sorted(self._dirty), set()
        for index in due:
            controller = self._controllers[index]
            try:
                controller.reconcile()
            except ApiError as exc:
                log.warning("controller failed, retrying", extra={"key": controller.name, "error": exc.message})
                asyncio.get_running_loop().call_later(RETRY_S, self._again, index)

    def _again(self, index: int) -> None:
        self._dirty.add(index)
        self._wake.set()
