# SPDX-License-Identifier: Apache-2.0
"""Confirmation of pods as a feature: written soon after a pod is enforced, and renewed now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from agent.confirmation.confirmed_pods import ConfirmedPods
from agent.confirmation.lease import ConfirmationLease
from agent.core import Core
from agent.feature import Feature, Tasks, wait_until_listed
from agent.tables import Endpoint
from kube.client import in_thread
from kube.errors import KubeError
from meshkit.backoff import Backoff
from meshkit.health import Health
from meshkit.wake import Wake, wait_for_ring

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05
RENEW_S: Final = 60.0
BACKOFF_S: Final = (0.2, 15.0)


class ConfirmationFeature(Feature):
    """`enforces` says whether a pod's interface runs our programs and its maps are written, `enforced` rings after changes.

    Where no Kubernetes API is read, no Lease is written.
    """

    name = "confirmation"

    def __init__(self, core: Core, enforces: Callable[[Endpoint], bool], enforced: Wake) -> None:
        self._core, self._enforces, self._enforced = core, enforces, enforced
        self.pods = ConfirmedPods()
        self._failure = ""

    def tasks(self) -> Tasks:
        core = self._core
        if core.client is None or not core.settings.node_name:
            return {}
        lease = ConfirmationLease(core.client, core.settings.config_namespace, core.facts.node)
        return {"confirmed pods": self._tell(lease)}

    def problems(self) -> Sequence[str]:
        return [self._failure] if self._failure else ()

    def check_health(self, health: Health) -> None:
        if self._failure:
            health.degraded("confirmation", self._failure)
        else:
            health.ok("confirmation")

    async def _tell(self, lease: ConfirmationLease) -> None:
        """Nothing is written before as much is known as an earlier agent knew; what it wrote stays until then."""
        clock, db = self._core.clock, self._core.db
        await self._read(lease)
        await wait_until_listed(db.prefixes, db.endpoints, db.verdicts)
        backoff = Backoff(*BACKOFF_S, self._core.outside.rng)
        renew_at_s = clock.monotonic()
        is_pending = False
        while True:
            rung = self._enforced.count
            is_pending |= self.pods.step(db.endpoints.rows(), self._enforces)
            if is_pending or clock.monotonic() >= renew_at_s:
                try:
                    await in_thread(lease.write, dict(self.pods.confirmed), clock.wall())
                except KubeError as exc:
                    self._fail(exc)
                    is_pending = True
                    await clock.sleep(backoff.next())
                    continue
                self._failure, is_pending = "", False
                backoff.reset()
                renew_at_s = clock.monotonic() + RENEW_S
            await wait_for_ring(self._enforced, rung, max(0.0, renew_at_s - clock.monotonic()), clock)
            await clock.sleep(GATHER_S)

    async def _read(self, lease: ConfirmationLease) -> None:
        backoff = Backoff(*BACKOFF_S, self._core.outside.rng)
        while True:
            try:
                self.pods.restore(await in_thread(lease.read))
            except KubeError as exc:
                self._fail(exc)
                await self._core.clock.sleep(backoff.next())
            else:
                self._failure = ""
                return

    def _fail(self, exc: KubeError) -> None:
        failure = f"pods of this node cannot be confirmed, new ones are not announced to peers: {exc}"[:512]
        if not self._failure:
            log.warning("pods cannot be confirmed, retrying", extra={"error": str(exc)})
        self._failure = failure
