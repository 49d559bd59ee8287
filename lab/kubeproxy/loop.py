# SPDX-License-Identifier: Apache-2.0
"""Keeps the tables of a cluster's nodes, and the routes to its balancer addresses, as Services and EndpointSlices ask for."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Mapping
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.resource import ResourceKey
from lab.devkube.api.store import ObjectEvent
from lab.kubeproxy.announce import announcers
from lab.kubeproxy.choices import proxy_rules
from lab.kubeproxy.ruleset import render
from lab.names import LabNames
from lab.netns import command_inside, links_of
from lab.topology import ClusterPlan

log = logging.getLogger(__name__)
WATCHED: Final[tuple[ResourceKey, ...]] = (("", "services"), ("discovery.k8s.io", "endpointslices"))
RETRY_S: Final = 1.0


class ProxyLoop:
    """Each table is replaced in one transaction, so that a packet sees either the old or the new rules."""

    def __init__(self, cluster: Cluster, plan: ClusterPlan, lab: LabNames) -> None:
        self._cluster, self._plan, self._lab = cluster, plan, lab
        self._wake = asyncio.Event()
        self._applied: dict[str, str] = {}
        self._routes: dict[str, str] = {}

    async def run(self) -> None:
        """Never returns; ends by cancellation, which leaves the tables as they are."""
        unsubscribe = self._cluster.subscribe(self._note)
        try:
            while True:
                self._wake.clear()
                try:
                    await self._apply_changed()
                except (OSError, NetlinkError) as exc:
                    log.warning("service rules not applied, retrying", extra={"error": str(exc)})
                    await asyncio.sleep(RETRY_S)
                    continue
                await self._wake.wait()
        finally:
            unsubscribe()

    def _note(self, event: ObjectEvent) -> None:
        if event.resource.key in WATCHED:
            self._wake.set()

    async def _apply_changed(self) -> None:
        services = self._cluster.list("services")
        slices = self._cluster.list("endpointslices", "discovery.k8s.io")
        for node in self._plan.nodes:
            ruleset = render(proxy_rules(services, slices, node, self._plan), self._plan, node)
            if self._applied.get(node.name) != ruleset:
                await asyncio.to_thread(apply, self._lab.node(node.name).netns, ruleset)
                self._applied[node.name] = ruleset
        routes = announcers(services, slices, self._plan)
        if routes != self._routes:
            await asyncio.to_thread(announce, self._lab.underlay, self._routes, routes)
            self._routes = routes


def apply(netns: str, ruleset: str) -> None:
    """The node's kernel has exactly this table. Raises: OSError with what nft said."""
    command = command_inside(netns, ["nft", "-f", "-"])
    done = subprocess.run(command, input=ruleset, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"nft: {done.stderr.strip()[:256]}")


def announce(netns: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """The network between nodes leads every balancer address to its node. Raises: OSError, NetlinkError."""
    with links_of(netns) as links:
        for address in before.keys() - after.keys():
            links.route("del", dst=f"{address}/32")
        for address, node in after.items():
            links.route("replace", dst=f"{address}/32", gateway=node)
