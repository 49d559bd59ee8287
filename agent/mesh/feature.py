# SPDX-License-Identifier: Apache-2.0
"""The stores of all clusters as a feature: who is followed, and what this node knows before any of them has spoken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.feature import Feature, Tasks
from agent.mesh.ingest import Writers
from agent.mesh.metrics import cluster_metrics, rejection_metrics
from agent.mesh.own_node import OwnNodeFollower
from agent.mesh.peer_limits import limits_of
from agent.mesh.probe import OverlayThenTcp, Prober
from agent.mesh.routes import (
    NETWORKS_OF_PEERS,
    OWN_STORE,
    add_cluster_routes,
    add_probe_routes,
    mesh_problems,
    own_store_problem,
    peer_rows,
    refused_networks,
)
from agent.mesh.rows import lost_node_problems, silent_node_problems
from agent.mesh.runner import MeshRunner
from agent.mesh.service_networks import ServiceNetworkFollower
from agent.mesh.tcp_probe import make_reach
from agent.tables import Node, NodeAddress
from meshapi.peer import RemoteCluster
from meshkit.health import Health
from meshkit.memory_limit import memory_bytes
from meshkit.rest import Rest
from meshmodel.names import ClusterName
from meshpeer.connection import StoreConnector, own_store_config
from meshpeer.session import SessionOptions
from meshpeer.signals import SignalLimits

_PEER = "peer "
_NODES = "nodes of peers"


class MeshFeature(Feature):
    """`resolve` gives a Service's address, for connection files that name a Service."""

    name = "mesh"

    def __init__(
        self,
        core: Core,
        writers: Writers,
        resolve: Callable[[str, str], Awaitable[str | None]] | None,
        describe_widening: Callable[[Mapping[ClusterName, tuple[str, ...]]], list[str]],
    ) -> None:
        settings = core.settings
        self._core, self._writers, self._describe_widening = core, writers, describe_widening
        self.own_node = OwnNodeFollower(core, self._claim, self._move)
        self._prober = _make_prober(core) if settings.probe_peers else None
        connector = StoreConnector(settings.clustermesh_config, resolve, dial=core.outside.dial, clock=core.clock)
        limits = limits_of(memory_bytes())
        self._service_networks = ServiceNetworkFollower(self._claim_service_networks, core.clock)
        self.runner = MeshRunner(
            core.db,
            writers,
            connector,
            core.clock,
            directory=settings.clustermesh_config,
            maximum=core.facts.maximum,
            vxlan_port=core.settings.vxlan_port,
            options=SessionOptions(
                prefer_slices=settings.prefer_endpoint_slices,
                limits=SignalLimits(settings.heartbeat_silence_s),
                caps=limits.caps,
                total_bytes=limits.total_bytes,
            ),
            rooms=limits.rooms,
            cache_ttl_s=settings.cluster_cache_ttl_s,
            withdraw_after_s=settings.withdraw_after_s,
            prober=self._prober,
            explain=connector.explain,
            certificate_end=connector.certificate_end,
            rng=core.outside.rng,
        )

    def expect(self) -> None:
        """Our nodes are known before their records arrive: what they have is ours, whatever a store says first."""
        self._claim_service_networks(())
        self.runner.expect_configured()
        if self._core.settings.local_etcd != "none":
            self.runner.expect_own(self._own_store())
        facts = self._core.facts
        for known in facts.own_nodes:
            with self._core.db.write():
                self.runner.know_own_node(self._own_node(known.name, known.ip, known.pod_cidrs))
        self._claim(self._own_node(facts.node, facts.node_ip, facts.pod_cidrs))

    def _claim(self, node: Node) -> None:
        with self._core.db.write():
            self.runner.know_this_node(node)
            self._writers.nodes.set_node(node)
            self._writers.prefixes.set_node(node)

    def _move(self, address: str) -> None:
        with self._core.db.write():
            self._writers.prefixes.move_own_node(address)

    def _claim_service_networks(self, networks: tuple[str, ...]) -> None:
        with self._core.db.write():
            self.runner.know_service_networks((*self._core.settings.service_networks, *networks))

    def tasks(self) -> Tasks:
        core = self._core
        tasks = {"mesh": self.runner.run(core.outside.watch(core.settings.clustermesh_config))}
        if core.client is not None:
            tasks["service networks"] = self._service_networks.run(core.client)
        if core.client is not None and core.settings.node_name:
            tasks["own node"] = self.own_node.run(core.client)
        return tasks

    def stop_waiting(self) -> Sequence[str]:
        """Peers that are not there are waited for no longer; the own cluster is waited for without end."""
        return self.runner.release_waiting()

    def peers(self) -> list[RemoteCluster]:
        """Every configured peer."""
        return peer_rows(self.runner, self._core.clock)

    def add_routes(self, rest: Rest) -> None:
        add_cluster_routes(rest, self.runner, self._core.clock)
        add_probe_routes(rest, self._core.db, self.runner, self._prober)

    def metrics(self) -> Iterable[Metric]:
        yield from cluster_metrics(self.runner, self._core.db.own, self._core.clock.monotonic())
        yield from rejection_metrics(self.runner)

    def problems(self) -> Sequence[str]:
        """Also what rules for addresses admit since a cluster is no peer any more."""
        found = mesh_problems(self.runner, self._core.db, self._core.clock)
        if self._prober is not None:
            found += silent_node_problems(self._prober.heard())
        return found + self._describe_widening(self.runner.drained)

    def check_health(self, health: Health) -> None:
        """A peer never makes this node unready, nor do nodes of it that are not reached, nor the own store once it was read."""
        if lost := lost_node_problems(self._core.db):
            health.degraded(_NODES, f"{len(lost)} not reached; {lost[0]}")
        else:
            health.ok(_NODES)
        found = {
            OWN_STORE: own_store_problem(self.runner, self._core.db.own, self._core.clock),
            NETWORKS_OF_PEERS: refused_networks(self.runner),
        }
        for name, problem in found.items():
            if problem:
                health.degraded(name, problem)
            else:
                health.ok(name)
        states = self.runner.states()
        for state in states:
            if state.is_ready:
                health.ok(_PEER + state.name)
            else:
                health.degraded(_PEER + state.name, ": ".join(state.shown))
        known = {_PEER + state.name for state in states}
        for component in health.snapshot():
            if component.startswith(_PEER) and component not in known:
                health.forget(component)

    def _own_store(self) -> bytes:
        settings = self._core.settings
        if settings.local_etcd_config:
            return Path(settings.local_etcd_config).read_bytes()
        return own_store_config(settings.local_etcd, settings.local_etcd_certificates)

    def _own_node(self, name: str, ip: str, pod_cidrs: tuple[str, ...]) -> Node:
        addresses = (NodeAddress("InternalIP", ip),) if ip else ()
        return Node(self._core.facts.cluster, self._core.facts.cluster_id, name, addresses, pod_cidrs)


def _make_prober(core: Core) -> Prober:
    probe = OverlayThenTcp(core.host.overlay(core.maps.probes), make_reach(core.settings.port), core.clock)
    return Prober(core.db, core.clock, probe, lost_after_s=core.settings.withdraw_after_s)
