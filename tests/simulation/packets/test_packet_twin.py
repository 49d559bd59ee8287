# SPDX-License-Identifier: Apache-2.0
"""The packet function and the kernel's programs, over equal maps, do the same with every packet of random histories."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.datapath.config import Lifetimes
from agent.datapath.flow_layout import EventType
from agent.datapath.layout import (
    TICK_NS,
    BackendKey,
    BackendState,
    BackendValue,
    MemberKey,
    MemberValue,
    PolicyKey,
    ServiceKey,
    ServiceValue,
)
from agent.datapath.maps import Maps
from agent.datapath.memory import memory_maps
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, RST, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    NEIGHBOUR_ENDPOINT_ID,
    NEIGHBOUR_ID,
    NODE,
    POD,
    POD_ID,
    REDIRECT,
    REMOTE_ID,
    REMOTE_NODE,
    REMOTE_POD,
    SHOT,
    STRANGER,
    VIP,
    WORLD,
    Outcome,
    PacketNode,
)
from tests.simulation.packets.packet_flows import Lot, NodeFacts, Segment
from tests.simulation.packets.packet_path import PacketPath
from tests.support.effort import examples

pytestmark = pytest.mark.root
POD_IFINDEX = 1
UNKNOWN_POD, OTHER_POD = "10.2.1.11", "10.1.2.10"
PEERS = (NEIGHBOUR, REMOTE_POD, UNKNOWN_POD, OTHER_POD, WORLD, NODE, STRANGER, POD)
PORTS = (80, 8080, 9090)


def ticks(seconds: int) -> int:
    return -(-seconds * 10**9 // TICK_NS)


class Both:
    """One node twice: its maps in the kernel and, in memory, equal ones."""

    def __init__(self, node: PacketNode, seed: int) -> None:
        self.node, self.random = node, random.Random(seed)
        self._prepare()
        self.maps = memory_maps()
        for kernel, memory in self._pairs(self.maps):
            memory.update(sorted(kernel.items(), key=lambda entry: -getattr(entry[0], "slot", 0)))
        self.chosen, self.arrived = 0, list[tuple[str, Segment, Lot]]()
        lives = Lifetimes()
        self.path = PacketPath(
            self.maps,
            NodeFacts(
                cluster_id=1,
                address=NODE,
                now_ns=lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC),
                tick=lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC) // TICK_NS,
                choose=lambda _count: self.chosen,
                established=ticks(lives.established_s),
                opening=ticks(lives.opening_s),
                closing=ticks(lives.closing_s),
                other=ticks(lives.other_s),
            ),
        )

    def _pairs(self, memory: Maps) -> Iterator[tuple[Any, Any]]:
        order = ("backends", "members", "services")
        names = [
            field.name for field in dataclasses.fields(Maps) if field.name not in ("metrics", "probes", "heartbeat")
        ]
        for name in sorted(names, key=lambda name: order.index(name) if name in order else 3):
            if getattr(memory, name) is not None:
                yield getattr(self.node.maps, name), getattr(memory, name)

    def _prepare(self) -> None:
        """Services, policies and identities by chance."""
        node, chance = self.node, self.random
        node.reset()
        node.ipcache(f"{UNKNOWN_POD}/32", 0, REMOTE_NODE, 2)
        node.ipcache(f"{OTHER_POD}/32", (1 << 16) + 7, "192.168.50.12", 1)
        for address in (POD, NEIGHBOUR):
            node.endpoint(chance.choice((0, 0, 1, 2, 3)), address=address)
        backends = [(1, NEIGHBOUR, 8080), (2, REMOTE_POD, 9090), (3, POD, 8080)]
        for protocol in (TCP, UDP):
            node.service(chance.sample(backends, chance.randint(0, 3)), protocol, chance.choice((0, 0, 60)))
        for _ in range(chance.randint(0, 14)):
            protocol = chance.choice((0, TCP, UDP))
            bits = chance.choice((0, 4, 16)) if protocol else 0
            port = chance.choice(PORTS) & ~((1 << (16 - bits)) - 1)
            key = PolicyKey(
                chance.choice((ENDPOINT_ID, NEIGHBOUR_ENDPOINT_ID)),
                chance.randint(0, 1),
                chance.choice((0, 0, NEIGHBOUR_ID, REMOTE_ID, REMOTE_ID, POD_ID, 2)),
                protocol,
                port,
                bits,
            )
            # proxies of the node, which the function does not know, are tried with sockets: test_datapath_proxy
            node.policy(key, chance.randint(1, 3), deny=chance.random() < 0.3)

    def change(self) -> None:
        """The agent writes the same into both."""
        chance = self.random
        backend = BackendKey(chance.randint(1, 3))
        for maps in (self.node.maps, self.maps):
            value = maps.backends.get(backend)
            member = MemberKey(7, backend.id)
            match backend.id if value is not None else 0:
                case 1:
                    assert value is not None
                    maps.backends.update([(backend, value._replace(state=BackendState.TERMINATING))])
                case 2:
                    maps.members.delete([member])
                case 3:
                    for protocol in (TCP, UDP):
                        head = ServiceKey(VIP, 80, protocol)
                        maps.services.delete([head])
                case _:
                    pass
            for key, endpoint in list(maps.endpoints_by_address.items()):
                maps.endpoints_by_address.update([(key, endpoint._replace(policy_revision=2))])
            for index, endpoint in list(maps.endpoints_by_ifindex.items()):
                maps.endpoints_by_ifindex.update([(index, endpoint._replace(policy_revision=2))])

    def packet(self) -> tuple[str, Segment]:
        """From POD, or to it through its node's stack or the overlay; few ports, so that flows meet, and often an answer."""
        chance = self.random
        if self.arrived and chance.random() < 0.5:
            return self._answer(*chance.choice(self.arrived[-6:]))
        protocol = chance.choice((TCP, TCP, UDP))
        flags = chance.choice((SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST)) if protocol == TCP else 0
        near, far = chance.choice((40000, 40001, 8080)), chance.choice(PORTS)
        how = chance.choice(("pod", "pod", "stack", "overlay"))
        if how == "pod":
            source = POD if chance.random() < 0.97 else NEIGHBOUR
            to = chance.choice((VIP, VIP, VIP, NEIGHBOUR, REMOTE_POD, *PEERS))
            return how, Segment(source, to, protocol, near, 80 if to == VIP else far, flags)
        return how, Segment(chance.choice(PEERS), POD, protocol, far, near, flags)

    def _answer(self, how: str, sent: Segment, lot: Lot) -> tuple[str, Segment]:
        """What the other end says, or the same end again, on the same ports."""
        was, chance = lot.packet, self.random
        if chance.random() < 0.4:
            return how, sent._replace(
                flags=chance.choice((SYN, SYN, ACK, FIN | ACK, RST)) if sent.protocol == TCP else 0
            )
        flags = chance.choice((SYN | ACK, ACK, ACK, FIN | ACK, RST)) if was.protocol == TCP else 0
        back = Segment(was.destination, was.source, was.protocol, was.destination_port, was.source_port, flags)
        if how == "pod" and was.destination != POD:
            return ("overlay" if lot.where == "overlay" else "stack"), back
        return "pod", back

    def send(self, how: str, segment: Segment) -> tuple[Outcome, Lot]:
        """What both do with it. The kernel goes first: the slot that it chose is not for us to foretell."""
        packet = Packet(*segment[:5], flags=segment.flags)
        if how == "stack":
            return self.node.receive(packet), self.path.to_pod(POD_IFINDEX, segment)
        if how == "overlay":
            is_fair = self.random.random() < 0.7
            identity = REMOTE_ID if is_fair else self.random.choice((REMOTE_ID, 6, NEIGHBOUR_ID, 1))
            outer = REMOTE_NODE if is_fair else STRANGER
            return self.node.overlay(packet, identity, outer), self.path.from_overlay(segment, identity, outer)
        outcome = self.node.send(packet)
        self.chosen = self._slot(outcome.packet, segment.protocol)
        return outcome, self.path.from_pod(POD_IFINDEX, segment)

    def _slot(self, sent: Packet, protocol: int) -> int:
        for key, value in self.maps.services.items():
            backend = self.maps.backends.get(BackendKey(value.backend_id)) if key.slot else None
            is_it = backend is not None and (backend.address, backend.port) == (sent.destination, sent.destination_port)
            if is_it and key.protocol == protocol:
                return key.slot - 1
        return 0

    def flows(self, maps: Maps) -> dict[Any, Any]:
        """Conntrack of one side: lifetimes from now, no sizes, and not when a packet was last recorded."""
        now, found = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // TICK_NS, {}
        for name in ("conntrack_tcp", "conntrack_other", "conntrack_opening"):
            for key, value in getattr(maps, name).items():
                left = max(-1, value.lifetime - now) if value.lifetime else -1
                untimed = value._replace(size_bytes=0, reported_forward=0, reported_reply=0)
                found[name, key] = untimed._replace(lifetime=round(left / 4))
        return found


def seen(how: str, outcome: Outcome) -> tuple[str, Reason | None]:
    """Where the kernel's packet went, as far as its verdict tells, and why it ended."""
    drops = [Reason(event.reason) for event in outcome.events if event.type == EventType.DROP]
    if drops:
        return "dropped" if outcome.verdict == SHOT else "refused", drops[0]
    if outcome.verdict == REDIRECT:
        return "redirected", None
    return "endpoint" if how == "stack" else "stack", None


def told(how: str, lot: Lot) -> tuple[str, Reason | None]:
    is_redirected = lot.where == "overlay" or (lot.where == "endpoint" and how != "stack")
    return "redirected" if is_redirected else lot.where, lot.reason


def compare(both: Both, how: str, segment: Segment, history: list[str]) -> None:
    """Both do the same with the packet."""
    outcome, lot = both.send(how, segment)
    history.append(f"{how} {segment}: {seen(how, outcome)} {lot}")
    assert told(how, lot) == seen(how, outcome), "\n".join(history)
    if lot.where in ("dropped", "refused"):
        return
    both.arrived.append((how, segment, lot))
    became = outcome.packet
    flags = became.flags if segment.protocol == TCP else 0
    ends = (became.source, became.destination, became.protocol, became.source_port, became.destination_port)
    assert lot.packet == Segment(*ends, flags), "\n".join(history)


@pytest.mark.parametrize("seed", range(examples(40)))
def test_the_packet_function_does_what_the_programs_do(node: PacketNode, seed: int) -> None:
    both, history = Both(node, seed), list[str]()
    for number in range(60):
        if number == 40:
            both.change()
            history.append("the agent writes")
        compare(both, *both.packet(), history)
    assert both.flows(both.maps) == both.flows(node.maps), "\n".join(history)


def test_ports_that_are_used_again_after_a_reset_are_given_a_backend_anew(node: PacketNode) -> None:
    both, history = Both(node, 0), list[str]()
    for maps in (node.maps, both.maps):
        for key, endpoint in list(maps.endpoints_by_ifindex.items()):
            maps.endpoints_by_ifindex.update([(key, endpoint._replace(flags=0))])
        for address, endpoint in list(maps.endpoints_by_address.items()):
            maps.endpoints_by_address.update([(address, endpoint._replace(flags=0))])
    for maps in (node.maps, both.maps):
        maps.backends.update([(BackendKey(n), BackendValue(f"10.9.0.{n}", 80, TCP)) for n in range(1, 5)])
        maps.members.update([(MemberKey(7, n), MemberValue()) for n in range(1, 5)])
        head = ServiceKey(VIP, 80, TCP)
        maps.services.update([(head._replace(slot=n), ServiceValue(n, 7)) for n in range(1, 5)])
        maps.services.update([(head, ServiceValue(0, 7, 4))])
    for port in range(40000, 40020):
        for flags in (SYN, RST, SYN):
            compare(both, "pod", Segment(POD, VIP, TCP, port, 80, flags), history)
