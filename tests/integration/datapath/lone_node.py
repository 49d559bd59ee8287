# SPDX-License-Identifier: Apache-2.0
"""A node by itself: a namespace with the interface of one pod in it, and a directory for pins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.datapath import netlink
from agent.datapath.config import NodeConfig
from tests.packet.datapath_host import bpffs, build_objects, inside, namespace, run
from tests.support.leftovers import own_name

POD_DEVICE: Final = "lxc1"
MTU: Final = 1450


@contextmanager
def lone_node(name: str, directory: Path, **settings: Any) -> Iterator[NodeConfig]:
    """The process is inside the node's namespace; `settings` are further fields of its configuration."""
    build_objects()
    with bpffs(directory / "bpf") as pins, namespace(own_name(name)) as made, inside(made):
        run("ip", "link", "add", POD_DEVICE, "mtu", str(MTU), "type", "veth", "peer", "name", "peer1")
        run("ip", "link", "set", POD_DEVICE, "up")
        yield NodeConfig("127.0.0.1", 1, pins / "node", mtu=MTU, **settings)


def pod_interface() -> int:
    """The index of the pod's interface."""
    found = netlink.device(POD_DEVICE)
    assert found
    return found.ifindex
