# SPDX-License-Identifier: Apache-2.0
"""The networks of our services are ours, used or not, as the ServiceCIDR objects say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from agent_mesh_kit import Mesh, PeerStore

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.mesh.feature import MeshFeature
from agent.mesh.service_networks import LOOK_S, ServiceNetworkFollower, strip_service_cidr
from agent.node_agent import make_features
from agent.settings import AgentSettings
from kube.client import KubeClient
from kube.errors import KubeError
from kube.reflector import Delete, Synced, Upsert
from kube.resource import Resource
from kubeintent.service_cidr import read_service_cidr
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName
from tests.unit.apiserver.apiserver_wait import until

SOUTH = ClusterName("south")


def test_networks_are_read_in_their_one_form_and_what_is_none_is_named() -> None:
    item = {
        "metadata": {"name": "kubernetes", "uid": "u"},
        "spec": {"cidrs": ["10.96.0.1/12", "FD00:96::/108", "x", 7]},
    }
    read = read_service_cidr(item)
    assert read.row == ("10.96.0.0/12", "fd00:96::/108")
    assert len(read.problems) == 2
    assert strip_service_cidr({"metadata": {}}) == strip_service_cidr({"metadata": {"name": "x"}}) == ()


async def test_a_peer_has_nothing_in_a_network_of_our_services_while_an_object_says_so(tmp_path: Path) -> None:
    clock = ManualClock()
    mesh = Mesh(tmp_path, clock)

    def claim(networks: tuple[str, ...]) -> None:
        with mesh.db.write():
            mesh.runner.know_service_networks(networks)

    follower = ServiceNetworkFollower(claim, clock)
    async with mesh.running():
        south = PeerStore("south", 2, clock)
        await south.fill()
        await south.node("s2", "172.18.0.6", "10.111.7.0/24")  # not the /24 around any address in use
        mesh.add(south)
        await mesh.until(lambda: mesh.db.prefixes.get("10.111.7.0/24") is not None)
        follower.take([Upsert("kubernetes", ("10.96.0.0/12",)), Synced()])
        assert mesh.db.prefixes.get("10.111.7.0/24") is None
        follower.take([Upsert("more", ("10.200.0.0/16",)), Delete("kubernetes", ("10.96.0.0/12",))])
        await south.node("s3", "172.18.0.7", "10.200.1.0/24")
        await mesh.until(lambda: mesh.db.prefixes.get("10.111.7.0/24") is not None, 65)
        assert mesh.db.prefixes.get("10.200.1.0/24") is None
        assert "belongs to cluster north (10.200.0.0/16)" in mesh.runner.rejections.samples(SOUTH)["foreign-network"]


@pytest.mark.parametrize("error", [None, KubeError("no leader")])
async def test_a_server_that_does_not_know_the_kind_is_asked_again_now_and_then(error: KubeError | None) -> None:
    clock, asked = ManualClock(), list[str]()

    class Older:
        def has(self, resource: Resource) -> bool:
            asked.append(resource.plural)
            if error is not None:
                raise error
            return False

    task = asyncio.create_task(ServiceNetworkFollower(lambda _: None, clock).run(cast(KubeClient, Older())))
    try:
        for count in (1, 2):
            await until(lambda count=count: clock.next_deadline is not None and len(asked) == count)
            assert asked == ["servicecidrs"] * count
            clock.advance(LOOK_S)
    finally:
        task.cancel()


async def test_networks_that_an_operator_names_are_ours_with_those_of_objects_and_without_any() -> None:
    """As on API servers that have no such objects."""
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
    settings = AgentSettings(local_etcd="none", service_networks=("10.96.0.0/12", "fd00:96::/108"))
    core = await open_core(settings, facts, None, MemoryHost(), ManualClock())
    mesh = next(found for found in make_features(core) if isinstance(found, MeshFeature))
    mesh.expect()
    networks = mesh.runner._networks

    def refused() -> list[bool]:
        return [networks.refuse_address(SOUTH, ip) is not None for ip in ("10.111.7.9", "fd00:96::7", "10.200.0.9")]

    assert refused() == [True, True, False]
    mesh._service_networks.take([Upsert("more", ("10.200.0.0/16",)), Synced()])
    assert refused() == [True, True, True]


def test_a_network_is_written_in_its_one_form() -> None:
    with pytest.raises(ValueError, match=r"--service-networks 10\.96\.0\.1/12: write it as 10\.96\.0\.0/12"):
        AgentSettings(service_networks=("10.96.0.1/12",))
