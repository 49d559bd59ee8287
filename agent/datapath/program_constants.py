# SPDX-License-Identifier: Apache-2.0
"""The constants that programs are loaded with: `struct config` of bpf/abi.h."""

from __future__ import annotations

import struct
from dataclasses import astuple
from typing import Final, NamedTuple

from agent.datapath.address import pack4
from agent.datapath.config import Aggregation, NodeConfig
from agent.datapath.layout import LOOPBACK_ADDRESS, TICK_NS
from agent.datapath.nat_ports import NO_PORTS, free_ports

_CONFIG = struct.Struct("<4s4s7I2sH6IQHHI")
_PEER_REDIRECT: Final = 1
_UNDERLAY_ETHERNET: Final = 2
_IDENTITY_BITS: Final = 24
_AGGREGATIONS: Final = {Aggregation.OFF: 0, Aggregation.NONE: 1, Aggregation.LOW: 2, Aggregation.MEDIUM: 3}


class NodeDevices(NamedTuple):
    """The devices that programs send by. `mtu` is the overlay's; `has_frames`: the underlay's packets have a link header."""

    overlay_ifindex: int
    underlay_ifindex: int
    has_frames: bool
    mtu: int


def program_constants(config: NodeConfig, devices: NodeDevices, netns_cookie: int) -> bytes:
    """For programs of this thread's network namespace, which the cookie is of (0: the kernel has none)."""
    addresses = (pack4(config.node_address), pack4(LOOPBACK_ADDRESS))
    numbers = (devices.overlay_ifindex, config.cluster_id, _IDENTITY_BITS - config.cluster_id_bits)
    flags = _PEER_REDIRECT if config.peer_redirect else 0
    flags |= _UNDERLAY_ETHERNET if devices.has_frames else 0
    rest = (flags, config.mark, config.events_per_s, devices.mtu)
    port = struct.pack("!H", config.vxlan_port)
    lives = (_ticks(seconds) for seconds in (*astuple(config.lifetimes), config.unattended_after_s))
    ports = free_ports() if config.leads_outsiders else NO_PORTS
    places = (*addresses, *numbers, *rest, port, 0, devices.underlay_ifindex)
    return _CONFIG.pack(*places, *lives, netns_cookie, *ports, _AGGREGATIONS[config.aggregation])


def _ticks(seconds: int) -> int:
    return -(-seconds * 10**9 // TICK_NS)
