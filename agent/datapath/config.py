# SPDX-License-Identifier: Apache-2.0
"""What the programs of one node are loaded with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

VXLAN_PORT: Final = 8472
VXLAN_OVERHEAD: Final = 50
OVERLAY_DEVICE: Final = "mesh0"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds a connection is remembered after its last packet, in either direction.

    established: TCP, once both sides acknowledged. opening: TCP before that. closing: TCP after a reset or both FINs.
    other: UDP, ICMP and the rest.
    """

    established_s: int = 21_600
    opening_s: int = 60
    closing_s: int = 10
    other_s: int = 60


class AttachMode(StrEnum):
    """How programs get onto an interface; AUTO takes tcx where the kernel has it."""

    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


class Aggregation(StrEnum):
    """Which packets are traced.

    off: nothing is recorded, drops and verdicts neither. none: every packet, where it comes in and where it goes. low: every
    packet, where it goes. medium: of a connection the first packet, those with new TCP flags, and one every 5 s.
    """

    OFF = "off"
    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's constants.

    node_address: the underlay address peers send VXLAN to and from.
    pin_directory: below a mounted bpffs, one per node; everything of this node is pinned there.
    underlay_device: its MTU bounds the pods'; "" takes the device of node_address.
    mtu: of the overlay device; 0 = underlay MTU - 50.
    max_entries: map sizes that differ from spec.py, by map name.
    cluster_id_bits: 8 for up to 255 clusters, 9 for 511; decides where an identity's cluster id starts.
    aggregation: which packets are traced.
    events_per_s: per CPU and event type; beyond it events are counted as lost, packets are not affected.
    lifetimes: of connections in the tracking maps.
    unattended_after_s: without a heartbeat for this long, new connections are left to the node's stack; 0: never.
    control_group: where the cgroup v2 hierarchy with all processes of the node is mounted; None leaves their sockets alone.
    ipv6: packets of IPv6 of pods are judged and led as those of IPv4 are; else dropped where a policy would have to be asked.
    leads_outsiders: who comes by the underlay device to a service of ours is led to backends of other clusters.
    mark: skb mark bits that say "ours": judged already, or encapsulated by us. 0 would leave both unsaid.
    """

    node_address: str
    cluster_id: int
    pin_directory: Path
    vxlan_port: int = VXLAN_PORT
    underlay_device: str = ""
    mtu: int = 0
    attach_mode: AttachMode = AttachMode.AUTO
    max_entries: Mapping[str, int] = field(default_factory=dict)
    cluster_id_bits: int = 8
    aggregation: Aggregation = Aggregation.MEDIUM
    events_per_s: int = 10_000
    mark: int = 0x0F00
    peer_redirect: bool = True
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    unattended_after_s: int = 0
    control_group: Path | None = None
    leads_outsiders: bool = False
    ipv6: bool = False
