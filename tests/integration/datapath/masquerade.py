# SPDX-License-Identifier: Apache-2.0
"""A node whose CNI plugin gives what pods send out of their cluster's network another source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.integration.datapath.datapath_topology import Node
from tests.packet.datapath_host import run


@contextlib.contextmanager
def masquerading(node: Node) -> Iterator[None]:
    """It leaves under the node's address; something must have."""
    network = f"10.{node.cluster}.0.0/16"
    rule = f"ip saddr {network} ip daddr != {network} counter masquerade fully-random"
    hook = f"chain out {{ type nat hook postrouting priority srcnat; {rule}; }};"
    inside = ("ip", "netns", "exec", node.namespace, "nft")
    run(*inside, f"table ip cni {{ {hook} }}")
    try:
        yield
        assert "counter packets 0 " not in run(*inside, "list", "table", "ip", "cni")
    finally:
        run(*inside, "delete", "table", "ip", "cni")
