# SPDX-License-Identifier: Apache-2.0
"""The networks of our services are ours, used or not, as the ServiceCIDR objects say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from agent_mesh_kit import Mesh, PeerStore

from agent.mesh.service_networks import LOOK_S, ServiceNetworkFollower, strip_service_cidr
from kube.client import KubeClient
from kube.errors import KubeError
from kube.reflector import Delete, Synced, Upsert
from kube.resource import Resource
from kubeintent.service_cidr import read_service_cidr
from meshkit.clock import ManualClock
from meshmodel.names import ClusterName
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
