# SPDX-License-Identifier: Apache-2.0
"""Devices of the node's network namespace: overlay, endpoint discovery, MTU, sysctls."""

from __future__ import annotations

from typing import NamedTuple


class EndpointInterface(NamedTuple):
    """The node-side end of a pod's veth; mac is the pod's, node_mac the node's."""

    ifindex: int
    mac: str
    node_mac: str


def endpoint_interface(address: str) -> EndpointInterface | None:
    """Where the node delivers this pod address, or None while no veth route or neighbour for it exists.

    Works with any CNI plugin that routes each pod over a host-side veth. Raises: NetlinkError.
    """
    raise NotImplementedError
