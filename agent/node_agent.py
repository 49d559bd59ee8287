# SPDX-License-Identifier: Apache-2.0
"""The agent's parts, put together: settings → datapath → tables → sources → reconcilers → REST. Decides nothing itself.

Map writes start when every first listing is complete, or at once on a node whose maps are empty: what an earlier agent left in
the kernel stays in force until this one knows as much. Peers are waited for no longer than the sync time-out.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.bootstrap import Facts
from agent.datapath.maps import Maps
from agent.datapath.netlink import endpoint_interface
from agent.endpoints.discovery import EndpointDiscovery
from agent.host import Host
from agent.identity.writer import IdentityWriter
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.connect import StoreConnector, own_store_config
from agent.mesh.ingest import Writers
from agent.mesh.probe import Prober, make_reach
from agent.mesh.runner import MeshRunner
from agent.mesh.session import SessionOptions
from agent.nodes.writer import NodeWriter
from agent.observe.flow import FlowMaker
from agent.observe.ring import FlowRing
from agent.policy.compiler import PolicyCompiler
from agent.policy.ops import EndpointTarget
from agent.policy.source import POLICY_RESOURCES, PolicySource
from agent.settings import AgentSettings
from agent.tables import AgentDB, Frontend, Node, NodeAddress
from kube.client import KubeClient, in_thread
from kube.resource import SERVICES
from meshkit.clock import Clock
from meshkit.filewatch import watch_directory
from meshkit.health import Health
from meshkit.metrics import Registry
from meshkit.reconciler import Reconciler
from meshkit.table import Table
from meshkit.wake import Wake, wait_for_ring
from meshmodel.names import ServiceName
from meshpolicy import PolicyContext

log = logging.getLogger(__name__)

GATHER_S = 0.002
TIDY_S = 300.0


class NodeAgent:
    """One node's agent. Everything it writes stays when it ends."""

    def __init__(
        self,
        settings: AgentSettings,
        facts: Facts,
        client: KubeClient | None,
        *,
        host: Host,
        clock: Clock,
    ) -> None:
        self.settings, self.facts, self.client, self.host, self.clock = settings, facts, client, host, clock
        self.started_wall_s = clock.wall()
        self.health, self.registry = Health(clock), Registry("clustermesh_agent")
        self.db = AgentDB(facts.cluster, facts.cluster_id, facts.node, facts.node_ip)
        self.load_balancer = LoadBalancerWriter(self.db)
        self.prefixes = PrefixWriter(self.db, tunnels_own_cluster=settings.own_cluster_routing == "tunnel")
        self.writers = Writers(self.load_balancer, self.prefixes, IdentityWriter(self.db), NodeWriter(self.db))
        self.flows = FlowRing()
        self.source = KubernetesSource(self.db, self.load_balancer, clock)
        context = PolicyContext(facts.cluster, facts.default_local_cluster)
        self.compiler = PolicyCompiler(self.db, context, self.prefixes.set_policy_prefixes)
        self._policy_wake, self._discovered = Wake(), Wake()
        self._waited_enough = self._was_complete = False
        self.mesh = MeshRunner(
            self.db,
            self.writers,
            StoreConnector(settings.clustermesh_config, self._resolve if client is not None else None),
            clock,
            directory=settings.clustermesh_config,
            maximum=facts.maximum,
            options=SessionOptions(settings.heartbeat_silence_s, prefer_slices=settings.prefer_endpoint_slices),
            cache_ttl_s=settings.cluster_cache_ttl_s,
            withdraw_after_s=settings.withdraw_after_s,
            prober=Prober(self.db, clock, make_reach(settings.port)) if settings.probe_peers else None,
        )
        self.lag = self.registry.histogram(
            "propagation_lag_seconds", "from a backend record's arrival at this agent to its map entries"
        )
        self.maps: Maps
        self.lb_target: LoadBalancerTarget
        self.endpoint_target: EndpointTarget
        self.discovery: EndpointDiscovery
        self.reconcilers: dict[str, Reconciler[Any, Any]] = {}

    async def run(self, serve: Callable[[NodeAgent], Awaitable[None]]) -> None:
        """Until cancelled. `serve` is the REST server's task."""
        self.health.starting("datapath", "loading programs and maps")
        self.maps = await in_thread(self.host.open)
        self.health.ok("datapath")
        was_used = self._restore()
        self._expect()
        self._seed_own_node()
        async with asyncio.TaskGroup() as group:
            for name, task in self._tasks(serve).items():
                group.create_task(task, name=name)
            for name, reconciler in self.reconcilers.items():
                group.create_task(self._reconcile(name, reconciler, was_used=was_used), name=f"reconcile {name}")

    # ---- start

    def _restore(self) -> bool:
        """Ids and entries of an earlier agent are taken over; true if there were any."""
        self.lb_target = LoadBalancerTarget(self.maps, self.clock.wall, self._on_written)
        frontends = self.lb_target.restore()
        self.endpoint_target = EndpointTarget(self.maps, self.host)
        ids = self.endpoint_target.restore()
        self.discovery = EndpointDiscovery(self.db, endpoint_interface, ids)
        ipcache = IpcacheTarget(self.maps.ipcache)
        self.reconcilers = {
            "frontends": Reconciler(self.db.frontends, self.lb_target, clock=self.clock),
            "prefixes": Reconciler(self.db.prefixes, ipcache, clock=self.clock),
            "endpoints": Reconciler(self.db.verdicts, self.endpoint_target, clock=self.clock),
        }
        log.info("maps taken over", extra={"service": frontends, "endpoint": len(ids)})
        return bool(frontends or ids or next(self.maps.ipcache.items(), None))

    def _expect(self) -> None:
        """Every source that must have listed once before anything is pruned."""
        db, settings = self.db, self.settings
        self.mesh.expect_configured()
        if settings.local_etcd != "none":
            self.mesh.expect_own(self._own_store())
        if self.client is None:
            return
        self._services_done = db.frontends.expect("kubernetes services")
        self._slices_done = db.frontends.expect("kubernetes endpointslices")
        self._policies_done = {r.plural: db.verdicts.expect(f"kubernetes {r.plural}") for r in POLICY_RESOURCES}
        self._policy_prefixes_done = {r.plural: db.prefixes.expect(f"kubernetes {r.plural}") for r in POLICY_RESOURCES}

    def _own_store(self) -> bytes:
        settings = self.settings
        if settings.local_etcd_config:
            return Path(settings.local_etcd_config).read_bytes()
        return own_store_config(settings.local_etcd, settings.local_etcd_certificates)

    def _seed_own_node(self) -> None:
        """Our nodes are known before their records arrive: what they have is ours, whatever a store says first."""
        facts = self.facts
        for known in facts.own_nodes:
            self.mesh.know_own_node(self._own_node(known.name, known.ip, known.pod_cidrs))
        node = self._own_node(facts.node, facts.node_ip, facts.pod_cidrs)
        self.mesh.know_own_node(node)
        with self.db.write():
            self.writers.nodes.set_node(node)
            self.prefixes.set_node(node)

    def _own_node(self, name: str, ip: str, pod_cidrs: tuple[str, ...]) -> Node:
        addresses = (NodeAddress("InternalIP", ip),) if ip else ()
        return Node(self.facts.cluster, self.facts.cluster_id, name, addresses, pod_cidrs)

    # ---- tasks

    def _tasks(self, serve: Callable[[NodeAgent], Awaitable[None]]) -> dict[str, Any]:
        tasks: dict[str, Any] = {
            "rest": serve(self),
            "mesh": self.mesh.run(watch_directory(self.settings.clustermesh_config)),
            "endpoints": self._follow_endpoints(),
            "policies": self._follow_policies(),
            "flows": self._follow_events(),
            "health": self._watch_health(),
            "sync time-out": self._bound_wait(),
            "memory": self._tidy_memory(),
        }
        for table in (self.db.identities, self.db.endpoints, self.db.prefixes):
            tasks[f"policy input {table.name}"] = self._forward(table)
        if self.client is not None:
            source = PolicySource(self.client, self.compiler, self._policy_wake.set, self.clock)
            tasks["services"] = self.source.run_services(self.client, self._services_done)
            tasks["endpointslices"] = self.source.run_slices(self.client, self._slices_done)
            tasks["policy reports"] = source.report()
            for resource in POLICY_RESOURCES:
                tasks[resource.plural] = source.run(resource, self._policy_synced(resource.plural))
        return tasks

    def _policy_synced(self, plural: str) -> Callable[[], None]:
        def done() -> None:
            self.compiler.step()
            self._policies_done[plural]()
            self._policy_prefixes_done[plural]()

        return done

    async def _reconcile(self, name: str, reconciler: Reconciler[Any, Any], *, was_used: bool) -> None:
        tables: dict[str, Table[Any, Any]] = {
            "frontends": self.db.frontends,
            "prefixes": self.db.prefixes,
            "endpoints": self.db.verdicts,
        }
        if was_used:
            await _initialized(tables[name])
        if name == "endpoints":
            await self._judge_all_pods()
        await reconciler.run()

    async def _judge_all_pods(self) -> None:
        """Pods of this node are never enforced by half of what we will know, also on a node that was empty."""
        await _initialized(self.db.verdicts)
        await _initialized(self.db.prefixes)
        for _ in range(2):  # the round under way may have begun too early
            rung = self._discovered.count
            self.db.prefixes.changed.set()
            await self._discovered.wait(rung)
        self.compiler.step()

    async def _bound_wait(self) -> None:
        """Peers that are not there are not waited for any longer; the own cluster is, for ever."""
        await self.clock.sleep(self.settings.sync_timeout_s)
        self._waited_enough = True
        missing = self.mesh.release_waiting()
        if missing:
            log.warning("first listings are missing, going on without", extra={"reason": "; ".join(missing)})

    async def _tidy_memory(self) -> None:
        """Collect what became garbage in cycles lately, then stop looking at everything that stays."""
        while True:
            await self.clock.sleep(TIDY_S)
            gc.collect()
            gc.freeze()

    async def _forward(self, table: Table[Any, Any]) -> None:
        while True:
            await table.changed.wait()
            self._policy_wake.set()

    async def _follow_endpoints(self) -> None:
        changed = self.db.prefixes.changed
        while True:
            rung = changed.count
            due = self.discovery.begin(self.clock.monotonic())
            found = await in_thread(self.discovery.look_up, due) if due else []
            again_s = self.discovery.finish(due, found, self.clock.monotonic())
            self._discovered.set()
            delay_s = None if again_s is None else max(0.0, again_s - self.clock.monotonic())
            await wait_for_ring(changed, rung, delay_s, self.clock)

    async def _follow_policies(self) -> None:
        while True:
            rung = self._policy_wake.count
            self.compiler.step()
            await self._policy_wake.wait(rung)
            await self.clock.sleep(GATHER_S)

    async def _follow_events(self) -> None:
        maker = FlowMaker(self.db, self.host.wall_of, self.compiler.rule_name)
        async for batch in self.host.events():
            self.flows.extend(maker.make(event) for event in batch)

    async def _watch_health(self) -> None:
        """What the peers and reconcilers say, once a second; a peer never makes this node unready."""
        while True:
            for state in self.mesh.states():
                component = f"peer {state.name}"
                if state.is_ready:
                    self.health.ok(component)
                else:
                    self.health.degraded(component, f"{state.state}: {state.reason}")
            known = {f"peer {state.name}" for state in self.mesh.states()}
            for component in self.health.snapshot():
                if component.startswith("peer ") and component not in known:
                    self.health.forget(component)
            self._report_progress()
            await self.clock.sleep(1.0)

    def _report_progress(self) -> None:
        waiting = sorted({s for table in self.db.tables for s in table.waiting_for})
        if not waiting:
            if not self._was_complete:
                self._was_complete = True
                gc.freeze()
            self.health.ok("first listings")
        elif self._waited_enough:
            self.health.degraded("first listings", f"still missing: {', '.join(waiting)}")
        else:
            self.health.starting("first listings", f"waiting for {', '.join(waiting)}")
        for name, reconciler in self.reconcilers.items():
            status = reconciler.status()
            if status.failed or status.prune_error:
                first = f"{status.failures[0].key}: {status.failures[0].error}" if status.failures else ""
                self.health.degraded(f"map {name}", f"{status.failed} not written; {first or status.prune_error}")
            else:
                self.health.ok(f"map {name}")

    # ---- small pieces

    def _on_written(self, row: Frontend, wall_s: float) -> None:
        if row.received_wall_s:
            self.lag.observe(max(0.0, wall_s - row.received_wall_s))

    async def _resolve(self, name: str, namespace: str) -> str | None:
        """A Service's cluster address, from what we know, else from Kubernetes."""
        row = self.db.services.get(ServiceName(namespace, name))
        if row is not None and row.addresses:
            return row.addresses[0].ip
        assert self.client is not None
        found = await in_thread(self.client.get, SERVICES, name, namespace)
        address = ((found or {}).get("spec") or {}).get("clusterIP")
        return str(address) if address and address != "None" else None


async def _initialized(table: Table[Any, Any]) -> None:
    """Every source of the table finished its first listing."""
    while not table.initialized:
        await table.changed.wait(table.changed.count)
