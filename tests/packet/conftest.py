# SPDX-License-Identifier: Apache-2.0
"""One loaded node for the packet tests of a module, emptied before each; no later test is left inside its namespace.

It passes packets on, by a default route: no other address is taken for one of the node's own.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.config import Aggregation
from tests.packet.datapath_host import BPF_DIRECTORY, bpffs, build_objects, inside, namespace, run
from tests.packet.ends import IPV4, IPV6, Ends
from tests.packet.packet_node import PacketNode
from tests.support.leftovers import own_name


@pytest.fixture(scope="module")
def packet_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketNode]:
    """A module is given the node at another aggregation by an indirect parameter."""
    aggregation = getattr(request, "param", Aggregation.MEDIUM)
    entry = _built(tmp_path_factory.getbasetemp(), "overlay_entry")
    with _made_node(tmp_path_factory.mktemp("packet"), aggregation, entry) as node:
        yield node


@pytest.fixture(scope="module")
def packet_node6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketNode]:
    """One that goes on with IPv6."""
    entries = [_built(tmp_path_factory.getbasetemp(), name) for name in ("overlay_entry", "overlay_entry6")]
    with _made_node(tmp_path_factory.mktemp("packet"), Aggregation.MEDIUM, *entries) as node:
        yield node


@contextlib.contextmanager
def _made_node(work: Path, aggregation: Aggregation, *entries: Path) -> Iterator[PacketNode]:
    build_objects()
    with bpffs(work / "bpf") as pins, namespace(own_name("packet")) as name, inside(name):
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{family}").write_text("1")
        run("ip", "route", "add", "default", "dev", "lo")
        if len(entries) > 1:
            run("ip", "-6", "route", "add", "default", "dev", "lo")
        node = PacketNode(pins / "node", entries[0], aggregation, *entries[1:])
        try:
            yield node
        finally:
            node.close()


@functools.cache
def _built(work: Path, name: str) -> Path:
    """Compiled once for all modules: that costs several times what loading a node does."""
    made, include = (
        work / f"{name}.bpf.o",
        ("-I", str(BPF_DIRECTORY), "-I", f"/usr/include/{os.uname().machine}-linux-gnu"),
    )
    source = os.path.join(os.path.dirname(__file__), f"{name}.bpf.c")  # noqa: PTH118, PTH120
    run("clang-14", "-O2", "-g", "-target", "bpf", "-mcpu=v3", *include, "-c", source, "-o", str(made))
    return made


@pytest.fixture
def node(packet_node: PacketNode) -> PacketNode:
    packet_node.reset()
    return packet_node


@pytest.fixture(params=[IPV4, IPV6], ids=str)
def ends(request: pytest.FixtureRequest) -> Ends:
    """Who speaks: a test with it runs once for each family, at best on `node6`, which goes on with both."""
    found: Ends = request.param
    return found


@pytest.fixture
def node6(packet_node6: PacketNode) -> PacketNode:
    packet_node6.reset()
    return packet_node6
