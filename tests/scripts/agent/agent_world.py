# SPDX-License-Identifier: Apache-2.0
"""A whole agent without kernel, etcd or clock, driven by the commands of *.txtar scripts.

A script is commands, then `-- name --` sections that commands name as inputs or expected output. The own cluster is `north`
(id 1) on node 172.18.0.2; a peer is introduced by `peer NAME ID`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from agent.datapath.memory import MemoryMaps, memory_maps
from agent.identity.writer import IdentityWriter
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.convert import strip_service, strip_slice
from agent.loadbalancer.merge import merge_backends
from agent.loadbalancer.ops import PROTOCOL_NAMES, LoadBalancerTarget
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.ingest import Ingest, Writers
from agent.mesh.networks import Networks
from agent.mesh.rejections import Rejections
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB, Backend, Peer
from kvstore.store import Event, Phase
from kvstore.store import Kind as EventKind
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.cluster_config import ClusterConfig
from meshmodel.condition import Condition
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpeer.kinds import BACKEND_KINDS
from meshpeer.view import Views

KINDS = {
    "services": Kind.SERVICES,
    "nodes": Kind.NODES,
    "ips": Kind.IPS,
    "identities": Kind.IDENTITIES,
    "endpointslices": Kind.ENDPOINT_SLICES,
}


class World:
    """One agent's tables, writers and targets on memory maps."""

    def __init__(self, maps: MemoryMaps | None = None) -> None:
        self.clock = ManualClock()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.lb = LoadBalancerWriter(self.db)
        self.writers = Writers(self.lb, PrefixWriter(self.db), IdentityWriter(self.db), NodeWriter(self.db))
        self.networks, self.rejections = Networks(self.db.own), Rejections(self.clock)
        self.maps = maps or memory_maps()
        self.restart_target()
        self.peers: dict[str, Ingest] = {}
        self.views: dict[str, Views] = {}
        self.slices: dict[ServiceName, dict[str, tuple[Backend, ...]]] = {}

    def restart_target(self) -> None:
        """As a new process would: the maps are what they are, the shadow is restored from them."""
        self.target = LoadBalancerTarget(self.maps, self.clock.wall)
        self.target.restore()
        self.reconcilers = [
            Reconciler(self.db.frontends, self.target, clock=self.clock),
            Reconciler(self.db.prefixes, IpcacheTarget(self.maps.ipcache), clock=self.clock),
        ]

    # ---- inputs

    def peer(self, name: str, cluster_id: int) -> Ingest:
        ingest = Ingest(
            ClusterName(name), self.db, self.writers,
            networks=self.networks, rejections=self.rejections, clock=self.clock,
        )  # fmt: skip
        _finish(ingest.begin(ClusterConfig(id=ClusterId(cluster_id)), list(KINDS.values())))
        self.peers[name], self.views[name] = ingest, Views()
        return ingest

    def feed(self, name: str, kind: Kind, phase: Phase, *changes: tuple[str, bytes | None]) -> None:
        """One batch of one peer's prefix, as a session hands it over; None deletes."""
        view = self.views[name].part(kind)
        if phase is Phase.LISTING:
            view.begin_listing()
        events = [
            Event(EventKind.PUT if v is not None else EventKind.DELETE, k.encode(), v or b"", 1) for k, v in changes
        ]
        self.peers[name].apply(kind, view.feed(events, 0))
        if phase is Phase.LISTED:
            self.peers[name].apply(kind, view.take_gone(len(view)))
            _finish(self.peers[name].listed(kind))

    def service(self, manifest: dict[str, object]) -> None:
        row = strip_service(manifest)
        assert row is not None
        with self.db.write():
            self.lb.set_service(row)

    def slice(self, manifest: dict[str, object]) -> None:
        piece = strip_slice(manifest)
        assert piece is not None
        self.slices.setdefault(piece.service, {})[piece.name] = piece.backends
        self._store_local(piece.service)

    def local(self, name: str, *backends: str) -> None:
        """`address:port[,name][,terminating]` each."""
        found = []
        for text in backends:
            where, *marks = text.split(",")
            address, port = where.split(":")
            condition = Condition.TERMINATING if "terminating" in marks else Condition.ACTIVE
            names = tuple(m for m in marks if m not in ("terminating", "sick")) or ("",)
            found.append(Backend(address, int(port), "TCP", names, condition, "sick" not in marks))
        with self.db.write():
            self.lb.set_backends(ServiceName.parse(name), self.db.own, self.db.own_id, found, self.clock.wall())

    def _store_local(self, name: ServiceName) -> None:
        with self.db.write():
            self.lb.set_backends(
                name, self.db.own, self.db.own_id, merge_backends(self.slices[name].values()), self.clock.wall()
            )

    # ---- outputs

    def settle(self) -> None:
        """Reconcile until nothing is left to do; a failing map is retried on the manual clock."""
        for reconciler in self.reconcilers:
            for _ in range(200):
                wake_at = reconciler.run_once(self.clock.monotonic()).wake_at
                status = reconciler.status()
                if status.is_settled:
                    break
                self.clock.advance(max(0.0, (wake_at or 0.0) - self.clock.monotonic()))
            else:
                raise AssertionError(f"did not settle: {reconciler.dump()}")

    def dump_maps(self) -> str:
        """Frontends of the service map with the backends behind their slots, as a person would compare them."""
        lines = []
        heads = [(key, value) for key, value in self.maps.services.items() if key.slot == 0]
        by_id = {key.id: value for key, value in self.maps.backends.items()}
        slots = {(k.address, k.port, k.protocol, k.slot): v.backend_id for k, v in self.maps.services.items() if k.slot}
        for key, head in sorted(heads):
            found = [by_id[slots[key.address, key.port, key.protocol, n]] for n in range(1, head.count + 1)]
            names = sorted(f"{b.address}:{b.port}" for b in found)
            flags = f" affinity={head.backend_id}s" if head.flags else ""
            proto = PROTOCOL_NAMES[key.protocol]
            lines.append(f"{key.address}:{key.port}/{proto}{flags} -> {', '.join(names) or '-'}")
        used = set(slots.values())
        lines += sorted(f"KEPT {b.address}:{b.port} {b.state}" for i, b in by_id.items() if i not in used)
        return "\n".join(lines)

    def dump_ipcache(self) -> str:
        rows = [
            f"{k.prefix} identity={v.identity} tunnel={v.tunnel} cluster={v.cluster_id}"
            for k, v in self.maps.ipcache.items()
        ]
        return "\n".join(sorted(rows))


class Script:
    """One script run against one world."""

    def __init__(self, text: str) -> None:
        head, *rest = re.split(r"^-- (\S+) --\n", text, flags=re.MULTILINE)
        lines = enumerate(head.splitlines(), 1)
        self.commands = [(n, line.strip()) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]
        self.files = dict(zip(rest[::2], rest[1::2], strict=True))
        self.world = World()

    def run(self, name: str) -> None:
        for number, line in self.commands:
            try:
                command, *arguments = shlex.split(line)
                getattr(self, "do_" + command.replace("-", "_"))(*arguments)
            except AssertionError as exc:
                raise AssertionError(f"{name}:{number}: {line}\n{exc}") from None

    def yaml(self, name: str) -> dict[str, object]:
        document: dict[str, object] = yaml.safe_load(self.files[name])
        return document

    def do_service(self, file: str) -> None:
        self.world.service(self.yaml(file))

    def do_service_del(self, name: str) -> None:
        with self.world.db.write():
            self.world.lb.delete_service(ServiceName.parse(name))

    def do_slice(self, file: str) -> None:
        self.world.slice(self.yaml(file))

    def do_local(self, name: str, *backends: str) -> None:
        self.world.local(name, *backends)

    def do_peer(self, name: str, cluster_id: str) -> None:
        self.world.peer(name, int(cluster_id))

    def do_peer_put(self, name: str, kind: str, key: str, file: str) -> None:
        self.world.feed(name, KINDS[kind], Phase.CHANGES, (key, self.files[file].strip().encode()))

    def do_peer_del(self, name: str, kind: str, key: str) -> None:
        self.world.feed(name, KINDS[kind], Phase.CHANGES, (key, None))

    def do_peer_listing(self, name: str, kind: str) -> None:
        self.world.feed(name, KINDS[kind], Phase.LISTING)

    def do_peer_listed(self, name: str, kind: str) -> None:
        self.world.feed(name, KINDS[kind], Phase.LISTED)

    def do_peer_removed(self, name: str) -> None:
        self.world.peers.pop(name).remove()

    def do_peer_expired(self, name: str) -> None:
        self.world.peers[name].drain_services()
        for kind in BACKEND_KINDS:
            self.world.views[name].forget(kind)

    def do_withdraw(self, name: str) -> None:
        self._set_peer(name, is_withdrawn=True)

    def do_restore(self, name: str) -> None:
        self._set_peer(name, is_withdrawn=False)

    def _set_peer(self, name: str, *, is_withdrawn: bool) -> None:
        row = self.world.db.peers.get(ClusterName(name))
        assert row is not None
        with self.world.db.write():
            self.world.lb.set_peer(Peer(row.name, row.cluster_id, is_withdrawn))

    def do_fail_after(self, map_name: str, writes: str) -> None:
        getattr(self.world.maps, map_name).fail_after(int(writes))

    def do_agent_restart(self) -> None:
        self.world.restart_target()

    def do_maps(self, file: str) -> None:
        self.world.settle()
        _compare(self.files[file], self.world.dump_maps())

    def do_ipcache(self, file: str) -> None:
        self.world.settle()
        _compare(self.files[file], self.world.dump_ipcache())

    def do_rejected(self, name: str, *expected: str) -> None:
        found = [f"{reason}={n}" for reason, n in self.world.rejections.counts(ClusterName(name)).items()]
        assert sorted(found) == sorted(expected), f"rejected: {found}"

    def do_problem(self, name: str, text: str) -> None:
        row = self.world.db.services.get(ServiceName.parse(name))
        assert row is not None
        assert any(text in problem for problem in row.problems), f"problems: {row.problems}"


def _finish(verb: Coroutine[Any, Any, None]) -> None:
    """The ingest's verbs wait for nothing: one step is all of it."""
    with suppress(StopIteration):
        verb.send(None)


def _compare(want: str, got: str) -> None:
    assert got.strip() == want.strip(), f"--- want\n{want.strip()}\n--- got\n{got.strip()}"


def run_file(path: Path) -> None:
    Script(path.read_text()).run(path.name)
