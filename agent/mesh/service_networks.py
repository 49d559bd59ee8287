# SPDX-License-Identifier: Apache-2.0
"""The networks of this cluster's services, from its ServiceCIDR objects: ours also where no service has an address yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.reflector import Change, Reflector, Synced, Upsert
from kube.resource import SERVICE_CIDRS
from kubeintent.read import UnreadableError
from kubeintent.service_cidr import read_service_cidr
from meshkit.clock import Clock

log = logging.getLogger(__name__)

LOOK_S: Final = 300.0
"""Between two looks at whether the API server knows the kind; servers before Kubernetes 1.33 may not."""


class ServiceNetworkFollower:
    """`claim` is called with all networks whenever they change."""

    def __init__(self, claim: Callable[[tuple[str, ...]], None], clock: Clock) -> None:
        self._claim, self._clock = claim, clock
        self._known: dict[str, tuple[str, ...]] = {}

    async def run(self, client: KubeClient) -> None:
        """Until cancelled."""
        while not await self._is_known(client):
            await self._clock.sleep(LOOK_S)
        await Reflector(client, SERVICE_CIDRS, strip=strip_service_cidr).run(self.take)

    def take(self, batch: Sequence[Change[tuple[str, ...]]]) -> None:
        """What the objects say together."""
        before = dict(self._known)
        for change in batch:
            if isinstance(change, Synced):
                continue
            self._known.pop(change.key, None)
            if isinstance(change, Upsert) and change.obj:
                self._known[change.key] = change.obj
        if self._known != before:
            self._claim(tuple(sorted({network for networks in self._known.values() for network in networks})))

    async def _is_known(self, client: KubeClient) -> bool:
        try:
            return await in_thread(client.has, SERVICE_CIDRS)
        except KubeError as exc:
            log.debug("API server not asked for service networks", extra={"error": repr(exc)})
            return False


def strip_service_cidr(item: dict[str, Any]) -> tuple[str, ...]:
    """The networks of one object; none of one that cannot be read."""
    try:
        return read_service_cidr(item).row or ()
    except UnreadableError:
        return ()
