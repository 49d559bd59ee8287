# SPDX-License-Identifier: Apache-2.0
"""One node's agent: its features and the order in which they start. Decides nothing about services, peers or policies.

Settings, then the datapath (both before this), then what earlier agents left in the maps is restored, then every source is
named, then everything runs. Map writes start when every first listing is complete, or at once on a node whose maps are
empty: what an earlier agent left in the kernel stays in force until this one knows as much. Peers are waited for no longer
than the sync time-out.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from agent.backendhealth.feature import BackendHealthFeature
from agent.confirmation.feature import ConfirmationFeature
from agent.core import Core
from agent.dns.feature import DnsFeature
from agent.endpoints.feature import EndpointsFeature
from agent.feature import Feature, Reconciling, wait_until_listed
from agent.fqdn.feature import FqdnFeature, PolicyProgress
from agent.heartbeat.feature import HeartbeatFeature
from agent.identity.feature import IdentityFeature
from agent.ipcache.feature import IpcacheFeature
from agent.journal.feature import JournalFeature
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.mesh.feature import MeshFeature
from agent.mesh.ingest import Writers
from agent.nodes.feature import NodesFeature
from agent.observe.feature import ObserveFeature
from agent.policy.feature import Neighbours, PolicyFeature
from agent.proxy.feature import ProxyFeature
from kube.client import KubeClient
from meshkit.errors import MeshError, TransientError
from meshkit.health import Health
from meshkit.reconciler import Reconciler
from meshkit.task_group import TaskGroup
from meshpolicy.proxy_ports import DNS, HTTP, ProxyPorts

log = logging.getLogger(__name__)

TIDY_S = 300.0
CHECK_S = 1.0
PREPARE_AGAIN_S = 1.0


class FeatureStartError(MeshError):
    """A feature could not start, so nothing was written and nothing runs; what is pinned stays in force."""

    def __init__(self, feature: str, cause: Exception) -> None:
        super().__init__(f"feature {feature} cannot start: {cause}")
        self.feature = feature


def make_features(core: Core) -> tuple[Feature, ...]:
    """Every feature of the agent in the order in which they start: a line each. What one needs of another it is given here."""
    nodes, identity, ipcache = NodesFeature(core), IdentityFeature(core), IpcacheFeature(core)
    loadbalancer = LoadBalancerFeature(core)
    ports = make_ports(core)
    policy = make_policy(core, identity, ipcache, ports)
    fqdn = make_names(core, policy)
    observe = ObserveFeature(core, policy.compiler.rule_origin, policy.compiler.staged, fqdn)
    proxy = ProxyFeature(core, ports, policy.enforced.set, observe.note_requests)
    dns = DnsFeature(core, ports, fqdn, policy.enforced.set, observe.note_questions)
    policy.proxy_failures = lambda: {**proxy.failures, **dns.failures}
    confirmation = ConfirmationFeature(core, policy.target.enforces, policy.enforced)
    writers = Writers(loadbalancer.writer, ipcache.writer, identity.writer, nodes.writer, confirmation.pods.hear)
    resolve = loadbalancer.resolve if core.client is not None else None
    mesh = MeshFeature(core, writers, resolve, policy.describe_widening)
    return (
        HeartbeatFeature(core),
        nodes,
        identity,
        ipcache,
        loadbalancer,
        proxy,
        dns,
        fqdn,
        policy,
        EndpointsFeature(core, policy.target.revision, policy.target.failures),
        observe,
        confirmation,
        BackendHealthFeature(core),
        mesh,
        JournalFeature(core, mesh.peers),
    )


def make_ports(core: Core) -> ProxyPorts | None:
    """Ports of the proxies that this node has; None: it has none."""
    kinds = {HTTP: core.envoy is not None, DNS: core.has_dns_proxy}
    found = frozenset(kind for kind, is_there in kinds.items() if is_there)
    return ProxyPorts(found) if found else None


def make_policy(
    core: Core, identity: IdentityFeature, ipcache: IpcacheFeature, ports: ProxyPorts | None = None
) -> PolicyFeature:
    """Policies, with the tables of identities and addresses that they write to; verdicts are first written after these."""
    addresses, identities = ipcache.writer, identity.writer
    neighbours = Neighbours(
        addresses.set_policy_prefixes,
        addresses.set_node_identities,
        ipcache.are_written,
        identities.set_identity,
        identities.delete_identity,
        ipcache.have_begun,
    )
    policy = PolicyFeature(core, neighbours, ports)
    are_addresses_there = core.db.verdicts.expect("addresses")

    def hear_addresses() -> None:
        are_addresses_there()
        policy.hear_addresses()

    ipcache.before_first, ipcache.after_first = policy.before_addresses, hear_addresses
    return policy


def make_names(core: Core, policy: PolicyFeature) -> FqdnFeature:
    """What pods are told of names; policies take from it which addresses they mean."""
    names = FqdnFeature(core, PolicyProgress(policy.ring, policy.are_in_force, policy.moved))
    policy.compiler.names = names.take
    return names


class NodeAgent:
    """Everything it writes stays when it ends."""

    def __init__(self, core: Core, features: Sequence[Feature]) -> None:
        self._core, self._features = core, tuple(features)
        self._reconciling = tuple(r for feature in self._features for r in feature.reconcilers())
        self._waited_enough = self._was_complete = False
        self._unprepared: dict[str, str] = {}

    @property
    def reconcilers(self) -> Mapping[str, Reconciler[Any, Any]]:
        """What drives maps towards tables, by name."""
        return {r.name: r.reconciler for r in self._reconciling}

    async def run(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until cancelled. `serve` is the REST server. Raises: FeatureStartError."""
        was_used = self._start()
        async with TaskGroup() as group:
            group.create_task(serve(), name="rest")
            for feature in self._features:
                for name, task in feature.tasks().items():
                    group.create_task(task, name=name)
            for reconciling in self._reconciling:
                group.create_task(self._reconcile(reconciling, was_used=was_used), name=f"reconcile {reconciling.name}")
            group.create_task(self._watch_health(), name="health")
            group.create_task(self._bound_wait(), name="sync time-out")
            group.create_task(self._tidy_memory(), name="memory")

    def _start(self) -> bool:
        """All features took over what the maps hold, then all named their sources; true if the maps held anything."""
        restored: dict[str, int] = {}
        for feature in self._features:
            try:
                restored[feature.name] = feature.restore()
            except Exception as exc:
                raise FeatureStartError(feature.name, exc) from exc
        log.info("maps taken over", extra={"reason": ", ".join(f"{n} {c}" for n, c in restored.items() if c)})
        for feature in self._features:
            try:
                feature.expect()
            except Exception as exc:
                raise FeatureStartError(feature.name, exc) from exc
        return any(restored.values())

    async def _reconcile(self, reconciling: Reconciling, *, was_used: bool) -> None:
        if was_used or reconciling.always_waits:
            await wait_until_listed(*reconciling.waits_for)
        while not self._is_prepared(reconciling):
            await self._core.clock.sleep(PREPARE_AGAIN_S)
        await reconciling.reconciler.run()

    def _is_prepared(self, reconciling: Reconciling) -> bool:
        """What comes before the first write is done. While it fails nothing is written: what is in force stays."""
        try:
            reconciling.before_first()
        except TransientError as exc:
            self._unprepared[reconciling.name] = str(exc)
            log.warning("first write put off", extra={"key": reconciling.name, "error": str(exc)})
            return False
        self._unprepared.pop(reconciling.name, None)
        return True

    async def _bound_wait(self) -> None:
        await self._core.clock.sleep(self._core.settings.sync_timeout_s)
        self._waited_enough = True
        missing = [source for feature in self._features for source in feature.stop_waiting()]
        if missing:
            log.warning("first listings are missing, going on without", extra={"reason": "; ".join(missing)})

    async def _tidy_memory(self) -> None:
        """Collect what became garbage in cycles lately, then stop looking at everything that stays."""
        while True:
            await self._core.clock.sleep(TIDY_S)
            gc.collect()
            gc.freeze()

    async def _watch_health(self) -> None:
        while True:
            self.check_health()
            await self._core.clock.sleep(CHECK_S)

    def check_health(self) -> None:
        """What features, first listings and reconcilers say is in the health report."""
        health = self._core.health
        for feature in self._features:
            feature.check_health(health)
        if self._core.client is not None:
            _report_kubernetes(self._core.client, health)
        waiting = self._core.db.waiting_for
        if not waiting:
            if not self._was_complete:
                self._was_complete = True
                gc.freeze()
            health.ok("first listings")
        elif self._waited_enough:
            health.degraded("first listings", f"still missing: {', '.join(waiting)}")
        else:
            health.starting("first listings", f"waiting for {', '.join(waiting)}")
        for name, reconciler in self.reconcilers.items():
            status = reconciler.status()
            if name in self._unprepared:
                health.degraded(f"map {name}", f"nothing is written yet: {self._unprepared[name]}")
            elif status.failed or status.prune_error:
                first = f"{status.failures[0].key}: {status.failures[0].error}" if status.failures else ""
                health.degraded(f"map {name}", f"{status.failed} not written; {first or status.prune_error}")
            else:
                health.ok(f"map {name}")


def _report_kubernetes(client: KubeClient, health: Health) -> None:
    """What is known stays in force while the API server is away, or forbids a kind; but somebody must hear of it."""
    if broken := client.following.broken():
        kind, error = next(iter(broken.items()))
        health.degraded("kubernetes", f"what changes in {', '.join(broken)} is not learned; {kind}: {error}")
    else:
        health.ok("kubernetes")
