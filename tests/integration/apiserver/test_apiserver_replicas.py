# SPDX-License-Identifier: Apache-2.0
"""Two apiservers of one cluster, each with its store: the same records in both, each written once, when a pod is confirmed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from agent.confirmation.lease import ConfirmationLease
from kube.client import KubeClient, in_thread
from kube.resource import CILIUM_IDENTITIES
from kvstore.etcd import EtcdStore
from tests.integration.apiserver.apiserver_world import (
    Pki,
    all_keys,
    connect,
    eventually,
    run_apiserver,
    settings,
    until,
)
from tests.integration.apiserver.workloads import Workloads

STATE = b"cilium/state/"
NODE = "koornacht-worker"
GLOBAL = {"service.cilium.io/global": "true"}


async def test_two_replicas_publish_the_same_records_once_and_neither_flaps(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    workloads.node(NODE, "172.18.0.3", "10.1.1.0/24")
    workloads.namespace("shop")
    workloads.service("cart", clusterIP="172.20.1.44", annotations=GLOBAL)
    second = settings(tmp_path, data_dir=tmp_path / "data-2", status_socket=tmp_path / "status-2.sock")
    async with (
        run_apiserver(client, settings(tmp_path)) as one,
        run_apiserver(client, second) as two,
        connect(one, pki.peer_tls()) as first,
        connect(two, pki.peer_tls()) as other,
    ):
        writes: Counter[tuple[int, bytes]] = Counter()
        watching = [asyncio.ensure_future(count_writes(s, n, writes)) for n, s in enumerate((first, other))]
        lease = ConfirmationLease(client, "kube-system", NODE)
        await in_thread(lease.write, {}, time.time())
        for n in range(1, 9):
            workloads.pod(f"pod-{n}", f"10.1.1.{n}", app=f"app-{n % 3}")
        workloads.slice("cart", *(f"10.1.1.{n}" for n in range(1, 9)))
        uids = {f"10.1.1.{n}": uid_of(workloads, f"pod-{n}") for n in range(1, 9)}
        await in_thread(lease.write, uids, time.time())
        for store in (first, other):
            await eventually(lambda store=store: addresses(store), sorted(uids), limit_s=30)
        made = await in_thread(client.list, CILIUM_IDENTITIES)
        assert len(made) == 3, [item["security-labels"] for item in made]
        await eventually(lambda: differing(first, other), [], limit_s=30)
        workloads.relabel("pod-1", app="another")
        await eventually(lambda: count_identities(client), 4, limit_s=30)
        await eventually(lambda: differing(first, other), [], limit_s=30)
        expected = {(n, b"cilium/state/ip/v1/default/" + ip.encode()): 1 for n in (0, 1) for ip in uids}
        expected |= dict.fromkeys([key for key in expected if key[1].endswith(b"/10.1.1.1")], 2)
        await until(lambda: dict(writes) == expected, limit_s=20, why=lambda: writes)
        for task in watching:
            task.cancel()


async def count_writes(store: EtcdStore, number: int, writes: Counter[tuple[int, bytes]]) -> None:
    """Every put of an IP record, by the store and what follows the prefix."""
    async for batch in store.list_and_watch(b"cilium/state/ip/v1/"):
        for event in batch.events:
            writes[number, event.key] += 1


async def addresses(store: EtcdStore) -> list[str]:
    found = await all_keys(store, b"cilium/state/ip/v1/default/10.")
    return sorted(key.rsplit(b"/", 1)[1].decode() for key in found)


async def differing(first: EtcdStore, other: EtcdStore) -> list[bytes]:
    left, right = await all_keys(first, STATE), await all_keys(other, STATE)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


async def count_identities(client: KubeClient) -> int:
    return len(await in_thread(client.list, CILIUM_IDENTITIES))


def uid_of(workloads: Workloads, name: str) -> str:
    pod = workloads.cluster.get("pods", name, "shop")
    assert pod is not None
    return str(pod["metadata"]["uid"])
