# SPDX-License-Identifier: Apache-2.0
"""What services and remote endpoints cost on their way into the kernel's maps, beside the raw cost of bpf(2) for the same bytes.

CPU seconds of this process, user and system, with the collector as the agent sets it.
"""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.app import GC_THRESHOLD
from agent.datapath.config import NodeConfig
from agent.datapath.kernel import RawMap
from agent.datapath.loader import Datapath
from agent.datapath.maps import Maps
from agent.datapath.syscall import get_pinned
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, ClaimOrigin, Prefix
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.bench.loadbalancer.run import Node, backends_of, fill, rows
from tests.packet.datapath_host import bpffs, build_objects, inside, namespace
from tests.support.leftovers import own_name

LOADS: Final = {"10000x10": (10_000, 10), "100000x5": (100_000, 5)}
BIG: Final = 5_000
FLIPS: Final = 20
ENDPOINTS: Final = 200_000
SIZES: Final = {"mesh_services": 1 << 20, "mesh_backends": 1 << 20, "mesh_members": 1 << 20}
SERVICE_MAPS: Final = ("mesh_backends", "mesh_members", "mesh_services")


def measure() -> dict[str, Any]:
    """Each figure in maps of its own."""
    build_objects()
    gc.set_threshold(GC_THRESHOLD, 20, 1_000_000)
    figures: dict[str, Any] = {"endpoint_bytes": _endpoints()}
    for name, (services, backends) in LOADS.items():
        figures[name] = _bulk(services, backends)
    return figures | {"one_of_5000": _change()}


def _cpu(step: Callable[[], object]) -> float:
    gc.collect()
    gc.freeze()
    start = time.process_time()
    step()
    return time.process_time() - start


@contextmanager
def _kernel() -> Iterator[tuple[Maps, Path]]:
    with tempfile.TemporaryDirectory() as work, bpffs(Path(work) / "bpf") as pins, namespace(own_name("load")) as name:
        with inside(name):
            datapath = Datapath(NodeConfig("127.0.0.1", 1, pins / "node", mtu=1450, max_entries=SIZES))
            try:
                yield datapath.open(), pins / "node" / "maps"
            finally:
                datapath.uninstall()


def _node(maps: Maps) -> Node:
    db, clock = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2"), ManualClock()
    target = LoadBalancerTarget(maps, clock.wall)
    target.restore()
    reconciler = Reconciler(db.frontends, target, clock=clock, prune_interval_s=None)
    return Node(db, LoadBalancerWriter(db), target, reconciler)


def _bulk(services: int, backends: int) -> dict[str, float]:
    """From what Kubernetes and records say to the kernel; and what bpf(2) alone takes for the entries that came of it."""
    with _kernel() as (maps, pins):
        node, given = _node(maps), rows(services, backends)
        select = _cpu(lambda: fill(node, given))
        write = _cpu(node.settle)
        raw = sum(_raw(pins / name) for name in SERVICE_MAPS)
        gc.unfreeze()
    both = select + write
    figures = {"select_s": select, "write_s": write, "both_s": both, "bpf_s": raw}
    return {name: round(value, 3) for name, value in figures.items()} | {"ratio": round(both / raw, 2)}


def _raw(pin: Path) -> float:
    """CPU seconds of writing all entries of the map once more, as bytes in batches."""
    one = RawMap(get_pinned(pin))
    try:
        entries = list(one.entries())
        keys, values = [key for key, _ in entries], [value for _, value in entries]
        error, _ = one.delete(keys)
        assert not error
        return _cpu(lambda: one.update(keys, values))
    finally:
        one.close()


def _change() -> dict[str, float]:
    """One of 5,000 backends of one service goes, or comes."""
    with _kernel() as (maps, _):
        node = _node(maps)
        fill(node, rows(1, BIG))
        node.settle()
        name, full = ServiceName("namespace-0", "service-0"), backends_of(0, BIG // 2, 1)

        def flip() -> None:
            for n in range(FLIPS):
                with node.db.write():
                    node.writer.set_backends(name, node.db.own, node.db.own_id, full[:-1] if n % 2 == 0 else full, 1.0)
                node.settle()

        return {"change_ms": round(_cpu(flip) * 1000 / FLIPS, 3)}


def _endpoints() -> int:
    """Resident bytes of this process for each pod of a peer that is in the tables and in the kernel."""
    with _kernel() as (maps, _):
        db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        writer, target = PrefixWriter(db), IpcacheTarget(maps.ipcache)
        reconciler = Reconciler(db.prefixes, target, clock=ManualClock(), prune_interval_s=None)
        gc.collect()
        before = _resident()
        peer, number = ClusterName("south"), ClusterId(2)
        for start in range(0, ENDPOINTS, 1000):
            with db.write():
                for n in range(start, start + 1000):
                    address = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32"
                    host, identity = f"172.19.{n >> 15}.{n >> 7 & 255}", (2 << 16) + 256 + n % 5000
                    row = Prefix(address, identity, "", peer, number, ClaimOrigin.POD, host, f"ns-{n % 50}", f"pod-{n}")
                    writer.set_pod(row)
        while reconciler.run_once(0.0).wake_at == 0.0:
            pass
        gc.collect()
        return (_resident() - before) // ENDPOINTS


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
