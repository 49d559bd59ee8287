# SPDX-License-Identifier: Apache-2.0
"""Each part of the suite: its stores, its measurements in processes of their own, and the bare client beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from certs import profile
from certs.authority import Authority
from tests.bench.wire import change as change_jobs
from tests.bench.wire import facade as facade_jobs
from tests.bench.wire import mirror as mirror_jobs
from tests.bench.wire import publish as publish_jobs
from tests.bench.wire import raw
from tests.bench.wire import reader as reader_jobs
from tests.bench.wire.child import child, result
from tests.bench.wire.meter import Figures, best, cpu_s, memory_mib, ratio
from tests.bench.wire.records import CLUSTER, MANY_SERVICES, SMALL, STANDARD, Shape
from tests.bench.wire.store import PEER, WALL_S, Store, store

ADMIN, REMOTE = profile.admin_user(CLUSTER), profile.remote_user(PEER)
PEERS_WATCHING = 4


async def publish(folder: Path) -> dict[str, Any]:
    """111,500 records from rows in memory; then 20,000 changes at once and single ones."""
    async with store(folder / "raw", CLUSTER) as bare:
        bare_fill = await fill(bare, STANDARD)
        admin = bare.connection(ADMIN)
        bare_burst = await result(raw.burst, connection=admin, watcher=admin, etcd=bare.pid, count=20_000)
        bare_hop = await result(raw.hop, connection=admin, samples=200, interval_s=0.02)
    async with store(folder / "ours", CLUSTER) as full:
        ours = await result(
            publish_jobs.from_tables, connection=full.connection(ADMIN), etcd=full.pid, shape=asdict(STANDARD)
        )
    return {
        **ours,
        "raw": {"first": bare_fill, "burst": bare_burst, "steady": bare_hop},
        "ratios": {
            "first_cpu": ratio(ours["first"], bare_fill),
            "first_wall": ratio(ours["first"], bare_fill, "wall_s"),
            "burst_cpu": ratio(ours["burst"], bare_burst),
            "steady_p50": ratio(ours["steady"], bare_hop, "p50_ms"),
        },
    }


async def publish_small(folder: Path) -> dict[str, Any]:
    """The 7,278 keys Cilium's exporter was measured with: from rows, and from Kubernetes' lists."""
    jobs = {"from_tables": publish_jobs.only_first, "from_lists": publish_jobs.from_lists, "raw": raw.fill}
    found: dict[str, list[Figures]] = {name: [] for name in jobs}
    for turn in range(3):
        for name, job in jobs.items():
            async with store(folder / f"{name}-{turn}", CLUSTER) as one:
                place = {"connection": one.connection(ADMIN), "etcd": one.pid, "shape": asdict(SMALL)}
                found[name].append(await result(job, **place))
    chosen: dict[str, Any] = {name: best(runs) for name, runs in found.items()}
    chosen["ratios"] = {name: ratio(chosen[name], chosen["raw"]) for name in ("from_tables", "from_lists")}
    return chosen


async def first_sync(folder: Path) -> dict[str, Any]:
    """111,500 records into the tables of one agent, from etcd itself and through the facade."""
    async with store(folder / "etcd", CLUSTER) as one, facade_of(one) as front:
        await fill(one, STANDARD)
        direct, through = reading(one, folder / "direct"), front.reading(folder / "through")
        found = {
            "raw": [await result(raw.read, connection=one.connection(REMOTE), etcd=one.pid) for _ in range(2)],
            "direct": [await result(reader_jobs.agent, directory=direct, etcd=one.pid) for _ in range(2)],
            "facade": [
                await result(reader_jobs.agent, directory=through, etcd=one.pid, facade=front.pid) for _ in range(2)
            ],
        }
    chosen: dict[str, Any] = {name: best(runs) for name, runs in found.items()}
    chosen["ratios"] = {name: ratio(chosen[name], chosen["raw"]) for name in ("direct", "facade")}
    return chosen


async def mirror(folder: Path) -> dict[str, Any]:
    """111,500 records from a peer's etcd into our own; then 20,000 changes at once and single ones."""
    async with store(folder / "source", CLUSTER) as source, store(folder / "target", PEER) as target:
        await fill(source, STANDARD)
        places = {"source": source.connection(REMOTE), "target": target.connection(profile.admin_user(PEER))}
        pids = {"source_etcd": source.pid, "target_etcd": target.pid}
        directory = reading(source, folder / "peers")
        async with (
            child(mirror_jobs.serve, connection=places["target"], directory=directory) as server,
            child(
                mirror_jobs.drive,
                source=source.connection(ADMIN),
                target=places["target"],
                mirror=server.pid,
                shape=asdict(STANDARD),
                **pids,
            ) as driver,
        ):
            await server.hear()
            await driver.hear()
            server.say("go")
            ours = await driver.hear()
            memory = {"rss_mib": memory_mib(server.pid), "rss_peak_mib": memory_mib(server.pid, "VmHWM")}
            process_s = cpu_s(server.pid)
    async with store(folder / "source2", CLUSTER) as source, store(folder / "target2", PEER) as target:
        await fill(source, STANDARD)
        pids = {"source_etcd": source.pid, "target_etcd": target.pid}
        bare = await result(
            raw.copy, source=source.connection(REMOTE), target=target.connection(profile.admin_user(PEER)), **pids
        )
        both = {"source": source.connection(ADMIN), "target": target.connection(profile.admin_user(PEER))}
        async with child(raw.carry, **both) as carrier:
            await carrier.hear()
            bare_hop = await result(raw.relay, samples=200, interval_s=mirror_jobs.INTERVAL_S, **both)
            bare_quick = await result(raw.relay, samples=400, interval_s=0.0, **both)
    return {
        **ours,
        "memory": memory,
        "process_cpu_s": process_s,
        "raw": {"first": bare, "steady": bare_hop, "one_after_another": bare_quick},
        "ratios": {
            "first_cpu": round(ours["first"]["mirror_cpu_s"] / bare["cpu_s"], 2),
            "first_wall": ratio(ours["first"], bare, "wall_s"),
            "steady_p50": ratio(ours["steady"], bare_hop, "p50_ms"),
            "one_after_another_p50": ratio(ours["one_after_another"], bare_quick, "p50_ms"),
        },
    }


async def services(folder: Path) -> dict[str, Any]:
    """100,000 services with 5 backends: decoded and kept; and into the tables of an agent."""
    async with store(folder / "etcd", CLUSTER) as one, facade_of(one) as front:
        size = (await fill(one, MANY_SERVICES))["bytes"]
        found: dict[str, list[Figures]] = {"raw": [], "decoded": [], "decoded_through_facade": [], "agent": []}
        direct = reading(one, folder / "direct")
        for _ in range(2):
            place = {"connection": one.connection(REMOTE), "etcd": one.pid}
            found["raw"].append(await result(raw.read, **place))
            found["decoded"].append(await result(reader_jobs.services, **place))
            through = front.connection(folder / "through", CLUSTER)
            found["decoded_through_facade"].append(await result(reader_jobs.services, connection=through, etcd=one.pid))
            found["agent"].append(await result(reader_jobs.agent, directory=direct, etcd=one.pid))
    chosen: dict[str, Any] = {name: best(runs) for name, runs in found.items()}
    chosen["ratios"] = {name: ratio(chosen[name], chosen["raw"]) for name in ("decoded", "agent")}
    return {"bytes": size, **chosen}


async def facade(folder: Path) -> dict[str, Any]:
    """What the facade adds to a round trip, and what 100,000 changes in full transactions cost it."""
    async with store(folder / "etcd", CLUSTER) as one, facade_of(one) as front:
        await fill(one, Shape(nodes=1))
        admin = one.connection(ADMIN)
        through = front.connection(folder / "through", CLUSTER)
        compared = await result(facade_jobs.compare, writer=admin, direct=one.connection(REMOTE), facade=through)
        pids = {"etcd": one.pid, "facade": front.pid}
        direct = await result(facade_jobs.events, writer=admin, readers=[one.connection(REMOTE)], turn="direct", **pids)
        one_peer = await result(facade_jobs.events, writer=admin, readers=[through], turn="one", **pids)
        many = await result(facade_jobs.events, writer=admin, readers=[through] * PEERS_WATCHING, turn="more", **pids)
        memory = memory_mib(front.pid)
    per_peer = (many["facade_cpu_s"] - one_peer["facade_cpu_s"]) / (PEERS_WATCHING - 1)
    return {
        **compared,
        "events_direct": direct,
        "events_one_peer": one_peer,
        "events_more_peers": many,
        "cpu_s_per_peer": round(many["facade_cpu_s"] / PEERS_WATCHING, 3),
        "cpu_s_per_further_peer": round(per_peer, 3),
        "rss_mib": memory,
    }


async def change(folder: Path) -> dict[str, Any]:
    """From a request to Kubernetes' API to the key in etcd, through the whole program; and its start with 7,278 keys."""
    async with store(folder / "etcd", CLUSTER) as one:
        found = await change_jobs.measure(folder, one)
        hop = await result(raw.hop, connection=one.connection(ADMIN), samples=200, interval_s=0.02)
    return {**found, "raw_hop": hop}


async def fill(one: Store, shape: Shape) -> dict[str, Any]:
    """The store holds the shape's records; what that cost the bare client."""
    return await result(raw.fill, connection=one.connection(ADMIN), etcd=one.pid, shape=asdict(shape))


def reading(one: Store, directory: Path) -> str:
    """A configuration directory with this peer in it."""
    one.connection(REMOTE, CLUSTER, folder=directory)
    return str(directory)


class Front:
    """A facade of a store in a process of its own."""

    def __init__(self, one: Store, peer: Authority, pid: int, port: int) -> None:
        self._one, self._peer, self._port, self.pid = one, peer, port, pid

    def connection(self, directory: Path, name: str) -> str:
        return self._one.connection(REMOTE, name, port=self._port, authority=self._peer, folder=directory)

    def reading(self, directory: Path) -> str:
        self.connection(directory, CLUSTER)
        return str(directory)


@asynccontextmanager
async def facade_of(one: Store) -> AsyncIterator[Front]:
    """The peer's certificates are signed by its own authority, as in production."""
    peer = Authority.create("peer mesh CA", WALL_S, 10)
    issued = one.authority.issue(profile.server(CLUSTER, "kube-system"), WALL_S)
    pems = {
        "own_ca": one.authority.certificate_pem,
        "peer_ca": peer.certificate_pem,
        "cert": issued.cert_pem,
        "key": issued.key_pem,
    }
    files: dict[str, str] = {}
    for name, pem in pems.items():
        path = one.directory / f"facade-{name}.pem"
        await asyncio.to_thread(path.write_bytes, pem)
        files[name] = str(path)
    async with child(facade_jobs.serve, connection=one.connection(ADMIN), certificates=files) as server:
        yield Front(one, peer, server.pid, (await server.hear())["port"])
