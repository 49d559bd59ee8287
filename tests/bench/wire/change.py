# SPDX-License-Identifier: Apache-2.0
"""The whole publishing program on a Kubernetes API: its start, and how long a request takes to become a key in etcd."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from certs import profile
from kube.client import in_thread
from kube.config import load_client
from kube.resource import ENDPOINT_SLICES, SERVICES
from kvstore.etcd import EtcdStore
from kvstore.store import Phase, prefix_end
from kvstore.watch import Message
from meshmodel import keys
from tests.bench.wire import cluster_rows, kubernetes, records
from tests.bench.wire.child import GUARD, Talk, child
from tests.bench.wire.meter import Meter, cpu_s, memory_mib, quantiles
from tests.bench.wire.records import CLUSTER, CLUSTER_ID, KINDS, SMALL
from tests.bench.wire.store import WALL_S, Store, connect
from tests.support import record_keys

SAMPLES, INTERVAL_S = 150, 0.05


async def measure(folder: Path, one: Store) -> dict[str, Any]:
    """The program starts when everything else stands, so that its CPU seconds up to the last canary are all its own."""
    kubeconfig, admin = str(folder / "kubeconfig"), one.connection(profile.admin_user(CLUSTER))
    await asyncio.to_thread(_write_server, folder / "server", one)
    async with (
        child(kubernetes.serve, kubeconfig=kubeconfig, shape=asdict(SMALL)) as api,
        child(drive, connection=admin, kubeconfig=kubeconfig) as driver,
    ):
        await api.hear()
        await driver.hear()
        started = time.monotonic()
        async with _program(folder, kubeconfig, admin) as pid:
            await driver.hear()
            start = {
                "wall_s": round(time.monotonic() - started, 2),
                "cpu_s": round(cpu_s(pid), 3),
                "rss_mib": memory_mib(pid),
            }
            return {"start": start, **await driver.ask(str(pid))}


async def drive(talk: Talk, connection: str, kubeconfig: str) -> dict[str, Any]:
    """Says when all canaries stand; then changes objects through the API and watches etcd."""
    backend, client = connect(connection), await in_thread(load_client, kubeconfig)
    await backend.get(keys.HEARTBEAT)
    talk.say(ready=True)
    await _canaries(backend)
    talk.say(synced=True)
    program = int(await talk.hear())

    def label(number: int) -> bytes:
        name = records.service_name(number)
        body = {"metadata": {"labels": {"changed": str(number)}}}
        client.patch_merge(SERVICES, name.name, body, name.namespace)
        return record_keys.service_key(CLUSTER, name)

    def port(number: int) -> bytes:
        name = records.service_name(number)
        body = {"ports": cluster_rows.slice_object(number, port=9000)["ports"]}
        client.patch_merge(ENDPOINT_SLICES, f"{name.name}-1", body, name.namespace)
        return record_keys.service_key(CLUSTER, name)

    found = {}
    for what, change in (("service", label), ("slice", port)):
        meter = Meter(program=program)
        times = await _times(backend, change)
        found[what] = {**times, "cpu_ms_per_change": round(meter.read()["program_cpu_s"] * 1000 / SAMPLES, 3)}
    await backend.close()
    return found


async def _times(backend: EtcdStore, change: Callable[[int], bytes]) -> dict[str, Any]:
    """Milliseconds from sending a request, and from its answer, to the key in a watch of etcd."""
    prefix = keys.services_prefix(CLUSTER)
    seen: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue()
    messages = backend.watch(prefix, prefix_end(prefix), 0)
    await anext(messages)
    watching = asyncio.create_task(_note(messages, seen))
    requests, sent_to_key, reply_to_key = [], [], []
    for number in range(SAMPLES):
        sent = time.monotonic()
        key = await in_thread(change, number)
        replied = time.monotonic()
        async with asyncio.timeout(10):
            while (event := await seen.get())[0] != key:
                pass
        requests.append((replied - sent) * 1000)
        sent_to_key.append((event[1] - sent) * 1000)
        reply_to_key.append((event[1] - replied) * 1000)
        await asyncio.sleep(INTERVAL_S)
    watching.cancel()
    await asyncio.wait([watching])
    return {
        "request_to_key": quantiles(sent_to_key),
        "request": quantiles(requests),
        "reply_to_key": quantiles(reply_to_key),
    }


async def _note(messages: AsyncIterator[Message], seen: asyncio.Queue[tuple[bytes, float]]) -> None:
    async for message in messages:
        for event in message.events:
            seen.put_nowait((event.key, time.monotonic()))


async def _canaries(backend: EtcdStore) -> None:
    missing = {keys.canary_key(CLUSTER, kind) for kind in KINDS}
    async with aclosing(backend.list_and_watch(keys.synced_prefix(CLUSTER))) as batches:
        async for batch in batches:
            missing -= {event.key for event in batch.events}
            if not missing and batch.phase is not Phase.LISTING:
                return


@asynccontextmanager
async def _program(folder: Path, kubeconfig: str, etcd: str) -> AsyncIterator[int]:
    """clustermesh-apiserver as an operator would start it; its process id."""
    flags = {
        "cluster-name": CLUSTER,
        "cluster-id": CLUSTER_ID,
        "kubeconfig": kubeconfig,
        "etcd-config": etcd,
        "source": "pods",
        "server-cert-dir": folder / "server",
        "ca-bundle-dir": folder / "server",
        "users-file": folder / "server/users.yaml",
        "data-dir": folder / "data",
        "listen-address": "127.0.0.1",
        "listen-port": 0,
        "status-address": "127.0.0.1",
        "status-port": 0,
        "status-socket": folder / "status.sock",
        "probe-port": 0,
        "log-level": "warning",
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    command = (*GUARD, sys.executable, "-m", "clustermesh_apiserver.start", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _write_server(directory: Path, one: Store) -> None:
    directory.mkdir()
    issued = one.authority.issue(profile.server(CLUSTER, "kube-system"), WALL_S)
    pems = {"tls.crt": issued.cert_pem, "tls.key": issued.key_pem, "ca.crt": one.authority.certificate_pem}
    for name, pem in pems.items():
        (directory / name).write_bytes(pem)
