# SPDX-License-Identifier: Apache-2.0
"""What the tests of a module share: one topology, with and without peer redirection, or one node by itself.

Services and policies are cleared between tests, and so is all of the lone node.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode, NodeConfig
from agent.datapath.loader import Datapath
from tests.integration.datapath.datapath_topology import Topology, topology
from tests.packet.datapath_host import bpffs, build_objects
from tests.support.leftovers import own_name


@pytest.fixture(scope="module", params=[(AttachMode.TCX, True), (AttachMode.CLSACT, False)], ids=["tcx", "clsact"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    with (
        bpffs(tmp_path_factory.mktemp("topology") / "bpf") as pins,
        topology(own_name("topology"), pins, request.param[0], peer_redirect=request.param[1]) as made,
    ):
        yield made


@pytest.fixture
def clean(mesh: Topology) -> Topology:
    for node in mesh.nodes:
        maps = node.maps
        maps.services.delete([k for k, _ in maps.services.items()])
        maps.backends.delete([k for k, _ in maps.backends.items()])
        maps.policy.delete([k for k, _ in maps.policy.items()])
        for pod in node.pods:
            node.endpoint(pod)
    return mesh


@pytest.fixture
def datapath(config: NodeConfig) -> Iterator[Datapath]:
    """The datapath of the module's lone node, which nothing is left of afterwards."""
    made = Datapath(config)
    try:
        yield made
    finally:
        made.uninstall()
