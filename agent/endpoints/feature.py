# SPDX-License-Identifier: Apache-2.0
"""Pods of this node that have an interface, as a feature."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.endpoints.discovery import EndpointDiscovery, Sighting
from agent.endpoints.rows import endpoint_rows
from agent.feature import Feature, Tasks
from agent.metric import gauge
from meshapi.agent import EndpointRow
from meshkit.rest import Rest
from meshkit.wake import Wake, wait_for_ring

LOOK_UPS = 64  # in a row, before other tasks get their turn


def _unknown(_address: str) -> None:
    return None


class EndpointsFeature(Feature):
    """`revision` is the policy revision that the kernel enforces for an address, `failures` say which policies do not fit."""

    name = "endpoints"

    def __init__(
        self, core: Core, revision: Callable[[str], int | None] = _unknown, failures: Mapping[str, str] | None = None
    ) -> None:
        self._core, self._wake = core, Wake()
        self._revision, self._failures = revision, failures if failures is not None else {}
        self.discovery = EndpointDiscovery(core.db, follows_ipv6=core.settings.ipv6)
        self._listed: list[Callable[[], None]] = []

    def restore(self) -> int:
        """Pods keep the endpoint ids that the maps hold, and stay while their interfaces exist."""
        found = list(self._core.maps.endpoints_by_address.items())
        ipv6: dict[str, list[str]] = {}
        for key, value in found:
            if key.address != value.address:
                ipv6.setdefault(value.address, []).append(key.address)
        values = [value for key, value in found if key.address == value.address]
        self.discovery.restore(values, ipv6)
        return len(values)

    def expect(self) -> None:
        self._listed.append(self._core.db.endpoints.expect("interfaces of this node's pods"))

    def tasks(self) -> Tasks:
        """Changes are heard of before anything is looked up, so that none falls between."""
        return {"interface changes": self._hear(), "endpoint records": self._forward(), "endpoints": self._follow()}

    def add_routes(self, rest: Rest) -> None:
        @rest.get("/v1/endpoints", list[EndpointRow], tag="tables")
        async def endpoints() -> list[EndpointRow]:
            """Pods of this node that have an interface."""
            return endpoint_rows(self._core.db, self._revision, self._failures)

    def metrics(self) -> Iterable[Metric]:
        yield gauge("endpoints", "pods of this node that are enforced", len(self._core.db.endpoints))

    def problems(self) -> Sequence[str]:
        missing = [f"pod {address}: no interface found on this node" for address in self.discovery.waiting]
        second = [
            f"pod {address}: its interface is enforced as that of {owner}: only one IPv4 address of a pod may send"
            for address, owner in self.discovery.second
        ]
        alone = [
            f"pod {namespace}/{name}: it has no address of IPv4, by which its interface is found: no policy is enforced for it"
            for namespace, name in self.discovery.of_ipv6_alone
        ]
        return missing + second + alone

    async def _hear(self) -> None:
        async for changes in self._core.host.changes():
            self.discovery.note(changes)
            self._wake.set()

    async def _forward(self) -> None:
        while True:
            await self._core.db.prefixes.changed.wait()
            self._wake.set()

    async def _follow(self) -> None:
        """The endpoints table counts as listed once every pod of the first listing was looked for."""
        prefixes, clock = self._core.db.prefixes, self._core.clock
        while True:
            rung, was_listed = self._wake.count, prefixes.initialized
            due = self.discovery.begin(clock.monotonic())
            seen: list[Sighting] = []
            for start in range(0, len(due), LOOK_UPS):
                seen += self._core.host.sight([wanted.asked for wanted in due[start : start + LOOK_UPS]])
                await asyncio.sleep(0)
            again_s = self.discovery.finish(due, seen, clock.monotonic())
            if was_listed:
                for done in self._listed:
                    done()
            await wait_for_ring(self._wake, rung, max(0.0, again_s - clock.monotonic()), clock)
