# SPDX-License-Identifier: Apache-2.0
"""The observers that a relay asks, each looked after by a task: whether it answers, what it said of itself, and why not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from flows.methods import PeerFacts
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.remote import ClientCertificates, RemoteObserver, UnansweredError
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.task_group import TaskGroup
from meshkit.wake import Wake, wait_for_ring

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
BACKOFF_S: Final = (1.0, 30.0)


class ObserverLink:
    """One observer. `state` is UNKNOWN until it was asked once; `why` is why it does not answer."""

    def __init__(self, name: str, remote: RemoteObserver) -> None:
        self.name, self.remote = name, remote
        self.state: relay.NodeState.ValueType = relay.UNKNOWN_NODE_STATE
        self.why = ""
        self.said: observer.ServerStatusResponse | None = None
        self.doubted = Wake()

    def doubt(self) -> None:
        """It is asked again now: a stream of it has ended."""
        self.doubted.set()

    async def ask(self) -> bool:
        """Whether it answers. `state` says the same from now on."""
        try:
            self.said = await self.remote.status()
        except UnansweredError as exc:
            if self.state != relay.NODE_UNAVAILABLE:
                log.warning("observer does not answer", extra={"peer": self.name, "error": str(exc)})
            self.state, self.why = relay.NODE_UNAVAILABLE, str(exc)
            return False
        if self.state != relay.NODE_CONNECTED:
            log.info("observer answers", extra={"peer": self.name})
        self.state, self.why = relay.NODE_CONNECTED, ""
        return True


class ObserverLinks:
    """All of one kind. `changed` rings when one is new, gone, or in another state. One event loop owns them."""

    def __init__(self, fetch: Callable[[str], ClientCertificates | None], clock: Clock) -> None:
        """`fetch` gives what the named observer is asked with."""
        self._fetch, self._clock = fetch, clock
        self._links: dict[str, ObserverLink] = {}
        self.changed = Wake()

    def rows(self) -> list[ObserverLink]:
        """By name."""
        return [self._links[name] for name in sorted(self._links)]

    def get(self, name: str) -> ObserverLink | None:
        """The observer of this name; None once it is gone."""
        return self._links.get(name)

    def set_targets(self, targets: Mapping[str, PeerFacts]) -> None:
        """From now on exactly these are there."""
        for name in [name for name, link in self._links.items() if targets.get(name) != link.remote.facts]:
            del self._links[name]
        for name, facts in targets.items():
            if name not in self._links:
                self._links[name] = ObserverLink(name, RemoteObserver(facts, lambda name=name: self._fetch(name)))  # type: ignore[misc]
        self.changed.set()

    async def run(self) -> None:
        """Looks after all of them until cancelled."""
        tended: dict[str, tuple[ObserverLink, asyncio.Task[None]]] = {}
        async with TaskGroup() as group:
            while True:
                rung = self.changed.count
                for name, (link, task) in list(tended.items()):
                    if self._links.get(name) is not link:
                        del tended[name]
                        task.cancel()
                for name, link in self._links.items():
                    if name not in tended:
                        tended[name] = link, group.create_task(self._tend(link), name=f"observer {name}")
                await self.changed.wait(rung)

    async def _tend(self, link: ObserverLink) -> None:
        backoff = Backoff(*BACKOFF_S)
        try:
            while True:
                rung, before = link.doubted.count, link.state
                answers = await link.ask()
                if link.state != before:
                    self.changed.set()
                if answers:
                    backoff.reset()
                await wait_for_ring(link.doubted, rung, LOOK_S if answers else backoff.next(), self._clock)
        finally:
            await link.remote.close()
