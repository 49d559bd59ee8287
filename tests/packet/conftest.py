# SPDX-License-Identifier: Apache-2.0
"""One loaded node for the packet tests of a module, emptied before each; no later test is left inside its namespace.

It passes packets on, by a default route: no other address is taken for one of the node's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.config import Aggregation
from tests.packet.datapath_host import BPF_DIRECTORY, bpffs, build_objects, inside, namespace, run
from tests.packet.packet_node import PacketNode
from tests.support.leftovers import own_name


@pytest.fixture(scope="module")
def packet_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketNode]:
    """A module is given the node at another aggregation by an indirect parameter."""
    build_objects()
    work = tmp_path_factory.mktemp("packet")
    entry = work / "overlay_entry.bpf.o"
    include = ("-I", str(BPF_DIRECTORY), "-I", f"/usr/include/{os.uname().machine}-linux-gnu")
    source = os.path.join(os.path.dirname(__file__), "overlay_entry.bpf.c")  # noqa: PTH118, PTH120
    run("clang-14", "-O2", "-g", "-target", "bpf", "-mcpu=v3", *include, "-c", source, "-o", str(entry))
    with bpffs(work / "bpf") as pins, namespace(own_name("packet")) as name, inside(name):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        run("ip", "route", "add", "default", "dev", "lo")
        node = PacketNode(pins / "node", entry, getattr(request, "param", Aggregation.MEDIUM))
        try:
            yield node
        finally:
            node.close()


@pytest.fixture
def node(packet_node: PacketNode) -> PacketNode:
    packet_node.reset()
    return packet_node
