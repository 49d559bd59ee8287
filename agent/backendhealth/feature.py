# SPDX-License-Identifier: Apache-2.0
"""Health probes as a feature: pods of this node are asked, and what all nodes found becomes rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from agent.backendhealth.asking import is_well
from agent.backendhealth.lease import HealthLease
from agent.backendhealth.verdicts import HealthVerdicts, Pod, in_turn
from agent.core import Core
from agent.feature import Feature, Tasks, wait_until_listed
from agent.metric import gauge
from agent.tables import ClaimOrigin
from agent.unwell import FailingPods
from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.reflector import Change, Reflector, Synced, Upsert
from kube.resource import LEASES, KubeObject
from kubeintent.health import read_health
from kubeintent.read import UnreadableError
from kubeintent.rows import HealthIntent
from meshapi.installed import HEALTH_SELECTOR
from meshkit.task_group import TaskGroup
from meshmodel.address import host_prefix
from meshmodel.condition import Condition
from meshmodel.health_probe import HealthProbe
from meshmodel.names import ServiceName

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
AT_ONCE: Final = 64
MAXIMUM: Final = 1_000
"""Pods of this node that are asked; those beyond are taken to be well, and status says so."""


class BackendHealthFeature(Feature):
    """Where no Kubernetes API is read, nobody is asked."""

    name = "backendhealth"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.verdicts = HealthVerdicts()
        self._asked = self._left_out = 0
        self._failure = ""

    def tasks(self) -> Tasks:
        core = self._core
        if core.client is None or not core.settings.node_name:
            return {}
        lease = HealthLease(core.client, core.settings.config_namespace, core.facts.node)
        return {"backend health": self._follow(core.client), "health probes": self._ask_for_ever(lease)}

    def problems(self) -> Sequence[str]:
        found = [self._failure] if self._failure else []
        if self._left_out:
            found.append(f"health-probe: {self._left_out} pods of this node are not asked, {MAXIMUM} at most are")
        return found

    def metrics(self) -> Sequence[Metric]:
        failing = sum(len(addresses) for addresses in self.verdicts.failing().values())
        return (
            gauge("health_probed_pods", "pods of this node that are asked whether they are well", self._asked),
            gauge("health_failing_pods", "pods of this node that fail their health probe", failing),
        )

    # ---- what all nodes found

    async def _follow(self, client: KubeClient) -> None:
        namespace = self._core.settings.config_namespace
        reflector = Reflector(
            client, LEASES, strip=_strip, namespace=namespace, label_selector=HEALTH_SELECTOR, optional=True
        )
        await reflector.run(self.take)

    def take(self, batch: Sequence[Change[HealthIntent | None]]) -> None:
        """The table is as these Leases say."""
        db = self._core.db
        with db.write():
            for change in batch:
                if isinstance(change, Synced):
                    continue
                if isinstance(change, Upsert) and change.obj is not None and change.obj.failing:
                    db.failing_pods.put(FailingPods(change.key, change.obj.node, change.obj.failing))
                else:
                    db.failing_pods.delete(change.key)

    # ---- what this node finds

    async def _ask_for_ever(self, lease: HealthLease) -> None:
        clock, db = self._core.clock, self._core.db
        written = await self._restore(lease)
        await wait_until_listed(db.frontends, db.prefixes)
        while True:
            await self.ask_all()
            failing = self.verdicts.failing()
            if failing != written:
                try:
                    await in_thread(lease.write, failing)
                except KubeError as exc:
                    self._fail(exc)
                else:
                    self._failure, written = "", failing
                    log.info("health of pods changed", extra={"reason": f"{sum(map(len, failing.values()))} failing"})
            await clock.sleep(EVERY_S)

    async def _restore(self, lease: HealthLease) -> Mapping[ServiceName, tuple[str, ...]]:
        while True:
            try:
                found = await in_thread(lease.read)
            except KubeError as exc:
                self._fail(exc)
                await self._core.clock.sleep(EVERY_S)
                continue
            self._failure = ""
            self.verdicts.restore(Pod(name, ip) for name, ips in (found.failing if found else ()) for ip in ips)
            return self.verdicts.failing()

    async def ask_all(self) -> None:
        """Every pod of this node that is to be asked was asked once."""
        wanted = self._wanted()
        self.verdicts.keep(wanted.keys())
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(pod: Pod, port: int, probe: HealthProbe) -> None:
            async with room:
                if not self._is_pod_of(pod.address, pod.service):
                    return  # while it waited for its turn somebody else got the address
                answer = await is_well(pod.address, port, probe)
            self.verdicts.note(pod, is_well=answer)

        async with TaskGroup() as group:
            for pod, (port, probe) in wanted.items():
                group.create_task(ask(pod, port, probe), name="health probe")

    def _wanted(self) -> dict[Pod, tuple[int, HealthProbe]]:
        """Ready pods of this node and the service's namespace, with the port behind the service's first TCP port.

        A slice may name any address, and policies let the node in everywhere: whoever writes one must not ask others by it.
        """
        db = self._core.db
        found: dict[Pod, tuple[int, HealthProbe]] = {}
        for service in sorted(
            (row for row in db.services.rows() if row.health_probe is not None), key=lambda row: row.name
        ):
            port_name = next((port.name for port in service.ports if port.protocol == "TCP"), None)
            row = db.backends.get((service.name, db.own))
            for backend in row.of_both_families if row is not None and port_name is not None else ():
                is_here = backend.node == db.node_name and backend.condition is Condition.ACTIVE
                if not is_here or not self._is_pod_of(backend.address, service.name):
                    continue
                if backend.protocol == "TCP" and port_name in backend.names:
                    assert service.health_probe is not None
                    found.setdefault(Pod(service.name, backend.address), (backend.port, service.health_probe))
        kept = in_turn(found, MAXIMUM)
        self._asked, self._left_out = len(kept), len(found) - len(kept)
        return {pod: found[pod] for pod in kept}

    def _is_pod_of(self, address: str, service: ServiceName) -> bool:
        """A record says that it is a pod of the own cluster in the service's namespace."""
        row = self._core.db.prefixes.get(host_prefix(address))
        if row is None or row.origin is not ClaimOrigin.POD or row.cluster != self._core.db.own:
            return False
        return row.namespace == service.namespace

    def _fail(self, exc: KubeError) -> None:
        failure = f"health of this node's pods cannot be told to other nodes and clusters: {exc}"[:512]
        if not self._failure:
            log.warning("health of pods cannot be told, retrying", extra={"error": str(exc)})
        self._failure = failure


def _strip(item: KubeObject) -> HealthIntent | None:
    try:
        return read_health(item).row
    except UnreadableError:
        return None
