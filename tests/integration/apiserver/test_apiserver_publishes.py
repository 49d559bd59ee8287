# SPDX-License-Identifier: Apache-2.0
"""From an annotation in Kubernetes to bytes that a peer reads through the facade."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kube.client import KubeClient, in_thread
from kube.resource import CILIUM_IDENTITIES
from kvstore.errors import Denied
from kvstore.store import Batch, Phase
from lab.devkube.api.cluster import Cluster
from meshmodel.cluster_config import ExportMode
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

GLOBAL = {"service.cilium.io/global": "true"}
CART = b"cilium/state/services/v1/koornacht/shop/cart"


def populate(workloads: Workloads) -> None:
    workloads.node("koornacht-worker", "172.18.0.3", "10.1.1.0/24")
    workloads.namespace("shop")
    workloads.service("cart", clusterIP="172.20.1.44")
    workloads.slice("cart", "10.1.1.7", "10.1.1.8")
    workloads.pod("cart-1", "10.1.1.7", app="cart")
    workloads.pod("cart-2", "10.1.1.8", app="cart")
    workloads.pod("web-1", "10.1.1.9", app="web")


async def test_a_peer_sees_the_whole_cluster_and_its_changes(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        config = await peer.get(b"cilium/cluster-config/koornacht")
        assert config is not None
        assert config.value == (
            b'{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,'
            b'"endpointSlicesExportMode":"services-and-endpointslices"}}'
        )
        assert config.lease != 0
        heartbeat = await peer.get(b"cilium/.heartbeat")
        assert heartbeat is not None
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", heartbeat.value)
        canaries = await all_keys(peer, b"cilium/synced/koornacht/")
        assert sorted(canaries) == [
            b"cilium/synced/koornacht/cilium/state/" + kind + b"/v1"
            for kind in (b"endpointslices", b"identities", b"ip", b"nodes", b"serviceexports", b"services")
        ]
        assert not await all_keys(peer, b"cilium/state/services/v1/koornacht/")

        workloads.annotate("services", "cart", "shop", **GLOBAL)
        await eventually(
            lambda: _value(peer, CART),
            b'{"cluster":"koornacht","namespace":"shop","name":"cart",'
            b'"frontends":{"172.20.1.44":{"http":{"Protocol":"TCP","Port":80}}},'
            b'"backends":{"10.1.1.7":{"http":{"Protocol":"TCP","Port":8080}},'
            b'"10.1.1.8":{"http":{"Protocol":"TCP","Port":8080}}},'
            b'"labels":{"app":"cart"},"selector":{"app":"cart"},"includeExternal":true,"shared":true,"clusterID":1}',
        )
        workloads.annotate("services", "cart", "shop", **{"service.cilium.io/shared": "false"})
        await eventually(lambda: _value(peer, CART), None)
        workloads.annotate("services", "cart", "shop", **{"service.cilium.io/shared": None})
        await eventually(lambda: _is_there(peer, CART), True)
        workloads.annotate("services", "cart", "shop", **{"service.cilium.io/global": None})
        await eventually(lambda: _value(peer, CART), None)


async def test_identities_and_addresses_agree_and_survive_a_restart(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        first = await all_keys(peer, b"cilium/state/")
    numbers = {
        key.rsplit(b"/", 1)[1]: value
        for key, value in first.items()
        if key.startswith(b"cilium/state/identities/v1/id/")
    }
    assert sorted(numbers.values()) == [
        b"k8s:app=%s;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;"
        b"k8s:io.cilium.k8s.policy.cluster=koornacht;k8s:io.cilium.k8s.policy.serviceaccount=default;"
        b"k8s:io.kubernetes.pod.namespace=shop;" % app
        for app in (b"cart", b"web")
    ]
    assert all(65536 <= int(number) < 131072 for number in numbers)
    by_app = {value.split(b";")[0]: number for number, value in numbers.items()}
    assert first[b"cilium/state/ip/v1/default/10.1.1.8"] == (
        b'{"IP":"10.1.1.8","Mask":null,"HostIP":"172.18.0.3","ID":%s,"Key":0,"Metadata":"",'
        b'"K8sNamespace":"shop","K8sPodName":"cart-2","K8sServiceAccount":"default"}' % by_app[b"k8s:app=cart"]
    )
    assert first[b"cilium/state/nodes/v1/koornacht/koornacht-worker"].startswith(
        b'{"Name":"koornacht-worker","Cluster":"koornacht","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.3"}],'
        b'"IPv4AllocCIDR":{"IP":"10.1.1.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null'
    )
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        assert await all_keys(peer, b"cilium/state/") == first
        assert len(await in_thread(client.list, CILIUM_IDENTITIES)) == len(numbers), "none was made anew"


async def test_a_new_label_set_gets_a_number_and_the_pod_keeps_its_record_meanwhile(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    key = b"cilium/state/ip/v1/default/10.1.1.9"
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.local_tls()) as reader:
        before = await _value(reader, key)
        workloads.relabel("web-1", app="web", tier="front")

        async def changed() -> bool:
            now = await _value(reader, key)
            assert now is not None
            return now != before

        await eventually(changed, True)
        workloads.remove("pods", "web-1")
        await eventually(lambda: _value(reader, key), None)


async def test_a_namespace_that_is_not_global_shows_nothing_and_comes_back(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """T29: services, slices, identities and addresses follow the namespace."""
    populate(workloads)
    workloads.annotate("services", "cart", "shop", **GLOBAL)
    chosen = settings(tmp_path, service_export_mode=ExportMode.BOTH)
    async with run_apiserver(client, chosen) as apiserver, connect(apiserver, pki.peer_tls()) as peer:

        async def kinds() -> set[bytes]:
            return {key.split(b"/")[2] for key in await all_keys(peer, b"cilium/state/")}

        everything = {b"services", b"endpointslices", b"identities", b"ip", b"nodes"}
        await eventually(kinds, everything)
        workloads.annotate("namespaces", "shop", **{"clustermesh.cilium.io/global": "false"})
        await eventually(kinds, {b"nodes"})
        with pytest.raises(Denied):
            await all_keys(peer, b"clustermesh/private/")
        async with connect(apiserver, pki.local_tls()) as agent:
            private = await all_keys(agent, b"clustermesh/private/")
            own_pods = [key.rpartition(b"/")[2] for key in private if b"/ip/v1/default/" in key]
            assert own_pods == [b"10.1.1.7", b"10.1.1.8", b"10.1.1.9"]
            assert len([key for key in private if b"/identities/v1/id/" in key]) == 2
            assert len([key for key in private if b"/synced/" in key]) == 2
        workloads.annotate("namespaces", "shop", **{"clustermesh.cilium.io/global": None})
        await eventually(kinds, everything)
        async with connect(apiserver, pki.local_tls()) as agent:

            async def left() -> list[bytes]:
                return [key for key in await all_keys(agent, b"clustermesh/private/") if b"/synced/" not in key]

            await eventually(left, [])


async def test_an_unknown_affinity_is_one_event_on_the_service_and_changes_nothing_else(
    client: KubeClient, kubernetes: tuple[Cluster, KubeClient], workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    workloads.annotate("services", "cart", "shop", **GLOBAL, **{"service.cilium.io/affinity": "closest"})
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        await eventually(lambda: _is_there(peer, CART), True)
        cluster = kubernetes[0]
        await until(lambda: len(cluster.list("events", namespace="shop")) == 1)
        event = cluster.list("events", namespace="shop")[0]
        assert event["involvedObject"]["name"] == "cart"
        assert "closest" in event["message"]
        workloads.slice("cart", "10.1.1.7")
        await eventually(lambda: _value_has(peer, CART, b"10.1.1.8"), False)
        assert len(cluster.list("events", namespace="shop")) == 1
        assert [problem.subject for problem in apiserver.problems.current()] == ["service shop/cart"]


async def test_a_peer_may_read_and_nothing_else(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """T16: a prefix without its slash is more than was granted."""
    populate(workloads)
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        for prefix, is_granted in (
            (b"cilium/state", False),
            (b"cilium/state/", True),
            (b"cilium/synced/koornacht", False),
        ):
            with contextlib.nullcontext() if is_granted else pytest.raises(Denied):
                assert (await all_keys(peer, prefix)) or not is_granted
            with contextlib.nullcontext() if is_granted else pytest.raises(Denied):
                async with contextlib.aclosing(peer.list_and_watch(prefix)) as watch:
                    await anext(watch)
        for key in (b"cilium/cache/x", b"cilium/cluster-config/tion", b"cilium/synced/tion/x", b"other"):
            with pytest.raises(Denied):
                await peer.get(key)
        with pytest.raises(Denied):
            await peer.put(CART, b"{}")
        with pytest.raises(Denied):
            await peer.apply({CART: None})
        with pytest.raises(Denied):
            await peer.grant(60)


async def test_etcd_itself_listens_on_loopback_and_takes_only_our_own_authority(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        assert apiserver.publication is not None
        assert apiserver.publication.store.process is not None
        pid, port = apiserver.publication.store.process.pid, apiserver.publication.store.process.port
        listening = _listening_addresses(pid)
        assert port in {found for _, found in listening}
        assert {address for address, _ in listening} == {"0100007F"}


async def test_removing_a_user_cuts_its_open_watch_at_once(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """T17."""
    populate(workloads)
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        watch = peer.list_and_watch(b"cilium/state/nodes/v1/koornacht/")
        while (await anext(watch)).phase is not Phase.LISTED:
            pass
        assert await peer.get(b"cilium/cluster-config/koornacht") is not None
        pki.write_users()
        with pytest.raises(Denied):
            await _read_to_the_end(watch)
        await eventually(lambda: _is_denied(peer, b"cilium/cluster-config/koornacht"), True)
        pki.write_users("remote-tion")
        await eventually(lambda: _is_denied(peer, b"cilium/cluster-config/koornacht"), False)


async def test_sigterm_style_cancel_leaves_no_etcd_behind(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        assert apiserver.publication is not None
        assert apiserver.publication.store.process is not None
        pid = apiserver.publication.store.process.pid
        assert _is_alive(pid)
    assert not _is_alive(pid)


async def test_a_killed_etcd_is_replaced_and_filled_again(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    workloads.annotate("services", "cart", "shop", **GLOBAL)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        async with connect(apiserver, pki.peer_tls()) as peer:
            await eventually(lambda: _is_there(peer, CART), True)
            first = await all_keys(peer, b"cilium/state/")
        publication = apiserver.publication
        assert publication is not None
        assert publication.store.process is not None
        await publication.store.process.kill()
        await until(lambda: apiserver.publication not in (None, publication))
        await until(lambda: apiserver.publication is not None and apiserver.publication.publisher.is_synced)
        await until(lambda: apiserver.facade_server.facade is not None)
        async with connect(apiserver, pki.peer_tls()) as peer:
            assert await all_keys(peer, b"cilium/state/") == first


async def _value(backend: object, key: bytes) -> bytes | None:
    entry = await backend.get(key)  # type: ignore[attr-defined]
    return entry.value if entry is not None else None


async def _is_there(backend: object, key: bytes) -> bool:
    return await _value(backend, key) is not None


async def _value_has(backend: object, key: bytes, part: bytes) -> bool:
    return part in (await _value(backend, key) or b"")


async def _is_denied(backend: object, key: bytes) -> bool:
    try:
        await _value(backend, key)
    except Denied:
        return True
    return False


async def _read_to_the_end(watch: AsyncIterator[Batch]) -> None:
    async with asyncio.timeout(10):
        async for _ in watch:
            pass


def _is_alive(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


def _listening_addresses(pid: int | None) -> set[tuple[str, int]]:
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in str(link.readlink())}
    inodes = {name[len("socket:[") : -1] for name in sockets}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            address, _, port = fields[1].partition(":")
            found.add((address, int(port, 16)))
    return found
