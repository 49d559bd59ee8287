# SPDX-License-Identifier: Apache-2.0
"""What is wrong with people's objects, said once each: one log line and one Kubernetes Event on the object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.events import emit_event
from kube.resource import KubeObject
from kubeintent.rows import ServiceIntent

log = logging.getLogger(__name__)

COMPONENT: Final = "clustermesh-apiserver"
REASON: Final = "InvalidMeshAnnotation"
MAX_WAITING: Final = 1_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one service."""

    service: str
    message: str


class Problems:
    """Everything that is wrong now, by service. A problem that goes away and comes back is said again."""

    def __init__(self, client: KubeClient | None) -> None:
        self._client = client
        self._known: dict[str, tuple[str, ...]] = {}
        self._events: asyncio.Queue[tuple[KubeObject, str]] = asyncio.Queue(MAX_WAITING)

    def set_problems(self, service: ServiceIntent, messages: Iterable[str]) -> None:
        """These, and no others, are wrong with the service."""
        key = f"{service.namespace}/{service.name}"
        now, before = tuple(messages), self._known.get(key, ())
        if now:
            self._known[key] = now
        else:
            self._known.pop(key, None)
        for message in now:
            if message not in before:
                log.warning("service annotation not understood", extra={"service": key, "reason": message})
                self._queue(service, message)

    def forget(self, key: str) -> None:
        """The service is gone."""
        self._known.pop(key, None)

    def current(self) -> list[Problem]:
        return [Problem(key, message) for key, messages in sorted(self._known.items()) for message in messages]

    async def run(self) -> None:
        """Events are written one after the other; one that cannot be written is given up, the log has it."""
        while True:
            involved, message = await self._events.get()
            if self._client is None:
                continue
            try:
                await in_thread(emit_event, self._client, involved, REASON, message, component=COMPONENT)
            except KubeError as exc:
                log.debug("event not written", extra={"error": str(exc)})

    def _queue(self, service: ServiceIntent, message: str) -> None:
        meta = {"namespace": service.namespace, "name": service.name, "uid": service.uid}
        if not self._events.full():
            self._events.put_nowait(({"apiVersion": "v1", "kind": "Service", "metadata": meta}, message))


def problems_of(service: ServiceIntent) -> tuple[str, ...]:
    """Everything about a service that its owner should hear."""
    found = service.annotations.problems
    if service.annotations.global_ and service.external_name:
        found = (*found, "an ExternalName service has no endpoints of its own and is not shared with peers")
    return found
