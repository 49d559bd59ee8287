# SPDX-License-Identifier: Apache-2.0
"""In which forms backends are published: services and their slices unless told otherwise, down to the records in etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustermesh_apiserver.settings import ApiserverSettings
from kube.client import KubeClient
from kvstore.etcd import EtcdStore
from meshmodel import cluster_config, endpointslice, service
from meshmodel.cluster_config import ExportMode
from meshmodel.keys import Kind, canary_key, cluster_config_key, prefix_of, synced_prefix
from tests.integration.apiserver.apiserver_world import Pki, all_keys, connect, eventually, run_apiserver, settings
from tests.integration.apiserver.workloads import Workloads

OWN = "koornacht"
GLOBAL = {"service.cilium.io/global": "true"}


async def records(store: EtcdStore, kind: Kind) -> dict[str, bytes]:
    """The records of a kind by what follows the prefix of its keys."""
    prefix = prefix_of(kind, OWN)
    return {key.removeprefix(prefix).decode(): value for key, value in (await all_keys(store, prefix)).items()}


async def backends(store: EtcdStore) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Addresses by service and by slice, as a peer of any kind reads them."""
    services = {
        name: service.decode(name, value, cluster=OWN, cluster_id=1)
        for name, value in (await records(store, Kind.SERVICES)).items()
    }
    slices = {
        name: endpointslice.decode(name, value, cluster=OWN, cluster_id=1)
        for name, value in (await records(store, Kind.ENDPOINT_SLICES)).items()
    }
    return (
        {name: sorted(record.backends) for name, record in services.items()},
        {name: sorted(a for e in record.endpoints for a in e.addresses) for name, record in slices.items()},
    )


async def said(store: EtcdStore) -> tuple[ExportMode | None, set[Kind]]:
    """The mode that the cluster's configuration says, and the forms whose first listing it says is complete."""
    entry = await store.get(cluster_config_key(OWN))
    if entry is None:
        return None, set()
    both, canaries = (Kind.SERVICES, Kind.ENDPOINT_SLICES), await all_keys(store, synced_prefix(OWN))
    return cluster_config.decode(entry.value).export_mode, {kind for kind in both if canary_key(OWN, kind) in canaries}


def populate(workloads: Workloads) -> None:
    workloads.node("koornacht-worker", "172.18.0.3", "10.1.1.0/24")
    workloads.namespace("shop")
    workloads.service("cart", clusterIP="172.20.1.44", annotations=GLOBAL)
    workloads.slice("cart", "10.1.1.7", "10.1.1.8")
    workloads.service("own", clusterIP="172.20.1.45")
    workloads.slice("own", "10.1.1.9")


async def test_by_default_services_and_slices_are_published_and_stay_equal(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    populate(workloads)
    chosen = settings(tmp_path)
    assert chosen.service_export_mode is ApiserverSettings(cluster_name="x", cluster_id=1).service_export_mode
    async with run_apiserver(client, chosen) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        await eventually(lambda: said(peer), (ExportMode.BOTH, {Kind.SERVICES, Kind.ENDPOINT_SLICES}))
        two = ["10.1.1.7", "10.1.1.8"]
        await eventually(lambda: backends(peer), ({"shop/cart": two}, {"shop/cart-1": two}))
        workloads.slice("cart", "10.1.1.8")
        await eventually(lambda: backends(peer), ({"shop/cart": ["10.1.1.8"]}, {"shop/cart-1": ["10.1.1.8"]}))
        workloads.annotate("services", "cart", "shop", **{"service.cilium.io/shared": "false"})
        await eventually(lambda: backends(peer), ({}, {}))
        workloads.annotate("services", "cart", "shop", **{"service.cilium.io/shared": None})
        await eventually(lambda: backends(peer), ({"shop/cart": ["10.1.1.8"]}, {"shop/cart-1": ["10.1.1.8"]}))


@pytest.mark.parametrize("first", [ExportMode.BOTH, ExportMode.SERVICES])
async def test_another_mode_after_a_restart_leaves_no_record_of_the_former_one(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path, first: ExportMode
) -> None:
    populate(workloads)
    two = ["10.1.1.7", "10.1.1.8"]
    expected = {
        ExportMode.BOTH: ((ExportMode.BOTH, {Kind.SERVICES, Kind.ENDPOINT_SLICES}), {"shop/cart-1": two}),
        ExportMode.SERVICES: ((ExportMode.SERVICES, {Kind.SERVICES}), {}),
    }
    second = ExportMode.SERVICES if first is ExportMode.BOTH else ExportMode.BOTH
    for mode in (first, second):
        chosen = settings(tmp_path, service_export_mode=mode)
        async with run_apiserver(client, chosen) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
            told, slices = expected[mode]
            await eventually(lambda peer=peer: said(peer), told)
            await eventually(lambda peer=peer: backends(peer), ({"shop/cart": two}, slices))
