# SPDX-License-Identifier: Apache-2.0
"""Pods of this node that have an interface, as a feature."""

from __future__ import annotations

from collections.abc import Callable

from agent.core import Core
from agent.datapath.netlink import endpoint_interface
from agent.endpoints.discovery import EndpointDiscovery, Interface
from agent.feature import Feature, Tasks
from kube.client import in_thread
from meshkit.wake import wait_for_ring


class EndpointsFeature(Feature):
    name = "endpoints"

    def __init__(self, core: Core, find: Callable[[str], Interface | None] = endpoint_interface) -> None:
        self._core = core
        self.discovery = EndpointDiscovery(core.db, find)
        self._listed: list[Callable[[], None]] = []

    def restore(self) -> int:
        """Pods keep the endpoint ids that the maps hold."""
        ids = {value.address: value.endpoint_id for _, value in self._core.maps.endpoints_by_address.items()}
        self.discovery.restore(ids)
        return len(ids)

    def expect(self) -> None:
        self._listed.append(self._core.db.endpoints.expect("interfaces of this node's pods"))

    def tasks(self) -> Tasks:
        return {"endpoints": self._follow()}

    async def _follow(self) -> None:
        """The endpoints table counts as listed once every pod of the first listing was looked for."""
        prefixes, clock = self._core.db.prefixes, self._core.clock
        while True:
            rung, was_listed = prefixes.changed.count, prefixes.initialized
            due = self.discovery.begin(clock.monotonic())
            found = await in_thread(self.discovery.look_up, due) if due else []
            again_s = self.discovery.finish(due, found, clock.monotonic())
            if was_listed:
                for done in self._listed:
                    done()
            delay_s = None if again_s is None else max(0.0, again_s - clock.monotonic())
            await wait_for_ring(prefixes.changed, rung, delay_s, clock)
