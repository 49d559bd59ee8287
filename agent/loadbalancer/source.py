# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices of the own cluster, from Kubernetes to the writer: one transaction per batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Final

from agent.loadbalancer.convert import ServiceObject, Slice, strip_object, strip_slice
from agent.loadbalancer.merge import merge_backends
from agent.loadbalancer.own_room import OwnRoom
from agent.loadbalancer.slice_backends import first_of
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, Service
from kube.client import KubeClient
from kube.reflector import Change, Delete, Reflector, Synced, Upsert
from kube.resource import ENDPOINT_SLICES, SERVICES
from meshkit.clock import Clock
from meshkit.supervise import together
from meshkit.wake import Wake
from meshmodel.names import ServiceName

log = logging.getLogger(__name__)

LARGE: Final = 1_000
"""Backends of a service that is not put together again at once for each of its slices."""
REST: Final = 4.0
"""After that much of the time that it took, the next large service has its turn."""


class KubernetesSource:
    """Turns object changes into whole contributions; an object that is not balanced counts as absent."""

    def __init__(self, db: AgentDB, writer: LoadBalancerWriter, clock: Clock, room: OwnRoom | None = None) -> None:
        """`room`: for backends of all services; that of maps of the usual size if None."""
        self._db, self._writer, self._clock = db, writer, clock
        self._room = OwnRoom(writer.wanted) if room is None else room
        self._slices: dict[ServiceName, dict[str, Slice]] = {}
        self._owner: dict[str, ServiceName] = {}
        self._problems: dict[ServiceName, tuple[str, ...]] = {}
        self._slice_problems: dict[str, tuple[str, ...]] = {}
        self._due: dict[ServiceName, None] = {}
        self._large_changed = Wake()

    async def run_services(self, client: KubeClient, on_synced: Callable[[], None]) -> None:
        """Follow Services until cancelled."""
        reflector = Reflector(client, SERVICES, strip=partial(strip_object, is_dual=self._writer.is_dual))
        await reflector.run(lambda batch: self.take_objects(batch, on_synced))

    async def run_slices(self, client: KubeClient, on_synced: Callable[[], None]) -> None:
        """Follow EndpointSlices until cancelled."""
        reflector = Reflector(client, ENDPOINT_SLICES, strip=partial(strip_slice, is_dual=self._writer.is_dual))
        following = reflector.run(lambda batch: self.take_slices(batch, on_synced, defers_large=True))
        await together({"slices": following, "large services": self.settle_large()})

    async def settle_large(self) -> None:
        """Large services whose slices changed, and those whose room did, are put together one at a time, until cancelled.

        A service of thousands of backends costs a tenth of a second for each of its slices that changes, and hundreds of them
        change in a row: put together once for all that came meanwhile, it takes a fifth of this program's time at most.
        """
        while True:
            seen = self._large_changed.count
            while self._due:
                name = next(iter(self._due))
                del self._due[name]
                began_s = self._clock.monotonic()
                with self._db.write():
                    self._put_together(name)
                await asyncio.sleep(0)
                await self._clock.sleep(REST * (self._clock.monotonic() - began_s))
            await self._large_changed.wait(seen)

    def slice_problems(self) -> list[str]:
        """Values of EndpointSlices that were left out, and namespaces without room for all of theirs, as sentences."""
        found = [f"endpointslice {key}: {text}" for key, said in sorted(self._slice_problems.items()) for text in said]
        return found + self._room.problems()

    def take_objects(self, batch: Sequence[Change[ServiceObject]], on_synced: Callable[[], None]) -> None:
        """Every Service as policies see it, and those to balance."""
        balanced: list[Change[Service | None]] = []
        with self._db.write():
            for change in batch:
                found = change.obj if isinstance(change, Upsert) else None
                if found is not None and found.labelled is not None:
                    self._db.labelled_services.put(found.labelled)
                elif not isinstance(change, Synced):
                    self._db.labelled_services.delete(ServiceName.parse(change.key))
                balanced.append(Upsert(change.key, found.balanced) if found is not None else change)  # type: ignore[union-attr,arg-type]
        self.take_services(balanced, on_synced)

    def take_services(self, batch: Sequence[Change[Service | None]], on_synced: Callable[[], None]) -> None:
        is_synced = False
        with self._db.write():
            for change in batch:
                if isinstance(change, Synced):
                    is_synced = True
                elif isinstance(change, Upsert) and change.obj is not None:
                    self._complain(change.obj)
                    self._writer.set_service(change.obj)
                    self._room.set_service(change.obj.name, change.obj)
                else:
                    name = ServiceName.parse(change.key)
                    self._problems.pop(name, None)
                    self._writer.delete_service(name)
                    self._room.set_service(name, None)
        self._due.update(dict.fromkeys(sorted(self._room.settle())))
        if self._due:
            self._large_changed.set()
        if is_synced:
            on_synced()

    def take_slices(
        self, batch: Sequence[Change[Slice | None]], on_synced: Callable[[], None], *, defers_large: bool = False
    ) -> None:
        """One batch. `defers_large` leaves large services to `settle_large`, unless the first listing ends with this batch."""
        is_synced = False
        touched: dict[ServiceName, None] = {}
        for change in batch:
            if isinstance(change, Synced):
                is_synced = True
                continue
            piece = None if isinstance(change, Delete) else change.obj
            self._note(change.key, piece.problems if piece is not None else ())
            touched.update(dict.fromkeys(self._place(change.key, piece)))
        sizes = {name: self._sizes(name) for name in touched}
        for name, (ipv4, ipv6) in sizes.items():
            self._room.set_sizes(name, ipv4, ipv6)
        self._due.update(dict.fromkeys(sorted(self._room.settle().difference(touched))))
        if defers_large and not is_synced:
            large = [name for name, (ipv4, ipv6) in sizes.items() if ipv4 + ipv6 > LARGE]
            self._due.update(dict.fromkeys(large))
            if self._due:
                self._large_changed.set()
        else:
            touched.update(self._due)
            self._due.clear()
        with self._db.write():
            for name in touched:
                if name not in self._due:
                    self._put_together(name)
        if is_synced:
            on_synced()

    def _sizes(self, name: ServiceName) -> tuple[int, int]:
        """Backends that the slices of each family have."""
        found = [0, 0]
        for piece in self._slices.get(name, {}).values():
            found[piece.is_ipv6] += len(piece.backends)
        return found[0], found[1]

    def _put_together(self, name: ServiceName) -> None:
        pieces = sorted(self._slices.get(name, {}).values(), key=attrgetter("name"))
        kept = self._room.keep(name, merge_backends(first_of([p.backends for p in pieces], self._room.looked_at)))
        unready = {ip for piece in pieces for ip in piece.unready}
        if unready:
            unready.difference_update(backend.address for backend in kept.backends)
        own, own_id, now_s = self._db.own, self._db.own_id, self._clock.wall()
        unready6 = sum(":" in address for address in unready)
        self._writer.set_backends(
            name,
            own,
            own_id,
            kept.backends,
            now_s,
            unready=len(unready) - unready6,
            unready6=unready6,
            left_out=kept.left_out,
        )

    def _place(self, key: str, piece: Slice | None) -> list[ServiceName]:
        """The slice is known as given, None as gone; returns the services whose backends may differ now."""
        touched: list[ServiceName] = []
        old = self._owner.pop(key, None)
        if old is not None:
            del self._slices[old][key]
            if not self._slices[old]:
                del self._slices[old]
            touched.append(old)
        if piece is not None:
            self._owner[key] = piece.service
            self._slices.setdefault(piece.service, {})[key] = piece
            touched.append(piece.service)
        return touched

    def _note(self, key: str, problems: tuple[str, ...]) -> None:
        """One line per slice and problem, not one per event."""
        before = self._slice_problems.get(key, ())
        if problems == before:
            return
        if problems:
            self._slice_problems[key] = problems
        else:
            del self._slice_problems[key]
        for problem in problems:
            if problem not in before:
                log.warning("endpoint slice value left out", extra={"key": key, "reason": problem})

    def _complain(self, service: Service) -> None:
        """One line per service and problem, not one per event."""
        if service.problems != self._problems.get(service.name, ()):
            self._problems[service.name] = service.problems
            for problem in service.problems:
                log.warning("service value left out", extra={"service": str(service.name), "reason": problem})
