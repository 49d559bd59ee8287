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
from kube.resource import KubeObject, Resource
from kubeintent.rows import ServiceIntent
from meshapi.installed import APISERVER
from meshkit.clock import Clock
from meshmodel.service import MAXIMUM_PORTS

log = logging.getLogger(__name__)

BAD_ANNOTATION: Final = "InvalidMeshAnnotation"
VALUE_LEFT_OUT: Final = "ValueLeftOut"
MAX_WAITING: Final = 1_000


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that a problem is about; `uid` may be empty."""

    resource: Resource
    key: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.resource.kind.lower()} {self.key}"

    def reference(self) -> KubeObject:
        """As much of the object as an Event needs."""
        namespace, _, name = self.key.rpartition("/")
        meta = {"name": name, "uid": self.uid, **({"namespace": namespace} if namespace else {})}
        return {"apiVersion": self.resource.api_version, "kind": self.resource.kind, "metadata": meta}


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one object."""

    subject: str
    message: str


class Problems:
    """Everything that is wrong now, by object and reason. A problem that goes away and comes back is said again."""

    def __init__(self, client: KubeClient | None, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._known: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
        self._events: asyncio.Queue[tuple[KubeObject, str, str]] = asyncio.Queue(MAX_WAITING)

    def set_problems(self, subject: Subject, reason: str, messages: Iterable[str]) -> None:
        """These, and no others, are wrong with the object for this reason."""
        key, now = (subject.resource.kind, subject.key), tuple(messages)
        reasons = self._known.get(key)
        before = reasons.get(reason, ()) if reasons is not None else ()
        if now == before:
            return
        if now:
            self._known.setdefault(key, {})[reason] = now
        elif reasons is not None:
            del reasons[reason]
            if not reasons:
                del self._known[key]
        for message in now:
            if message not in before:
                log.warning("object not wholly understood", extra={"key": str(subject), "reason": message})
                if not self._events.full():
                    self._events.put_nowait((subject.reference(), reason, message))

    def knows(self, resource: Resource, key: str) -> bool:
        """Whether anything is wrong with the object."""
        return (resource.kind, key) in self._known

    def forget(self, resource: Resource, key: str) -> None:
        """The object is gone."""
        self._known.pop((resource.kind, key), None)

    def forget_kind(self, resource: Resource) -> None:
        """Objects of this kind are not read any more."""
        for key in [key for key in self._known if key[0] == resource.kind]:
            del self._known[key]

    def current(self) -> list[Problem]:
        return [
            Problem(f"{kind.lower()} {key}", message)
            for (kind, key), reasons in sorted(self._known.items())
            for _, messages in sorted(reasons.items())
            for message in messages
        ]

    async def run(self) -> None:
        """Events are written one after the other; one that cannot be written is given up, the log has it."""
        while True:
            involved, reason, message = await self._events.get()
            if self._client is None:
                continue
            try:
                wall_s = self._clock.wall()
                await in_thread(emit_event, self._client, involved, reason, message, wall_s=wall_s, component=APISERVER)
            except KubeError as exc:
                log.debug("event not written", extra={"error": str(exc)})


def problems_of(service: ServiceIntent) -> tuple[str, ...]:
    """Everything about a service's annotations, and its share in the mesh, that its owner should hear."""
    found = service.annotations.problems
    if service.annotations.global_ and service.external_name:
        found = (*found, "an ExternalName service has no endpoints of its own and is not shared with peers")
    if service.annotations.global_ and service.annotations.shared and len(service.ports) > MAXIMUM_PORTS:
        found = (
            *found,
            f"{len(service.ports)} ports: peers take {MAXIMUM_PORTS} of one service, and refuse this one whole",
        )
    return found
