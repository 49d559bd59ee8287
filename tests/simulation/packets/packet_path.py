# SPDX-License-Identifier: Apache-2.0
"""What the programs under agent/datapath/bpf do with one packet, over the maps of a node: a twin in Python that shares no code.

IPv4, TCP and UDP, whole packets that fit, from pods that speak with their own MAC, on a node whose agent attends to its maps:
service choice with affinity, both conntrack entries with their lifetimes and moves, policy lookup, ipcache, overlay. Fragments,
ICMP, TTL, MTU and probes are not here. `test_packet_twin` holds it to the kernel's programs.

Works over any `agent.datapath.maps.Maps`: those in memory of a simulated node (`world.clusters[c].nodes[n].machine.maps`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.datapath.affinity_layout import AffinityKey, AffinityValue
from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue
from agent.datapath.layout import (
    LOOPBACK_ADDRESS,
    AddressKey,
    BackendKey,
    BackendValue,
    Direction,
    EndpointValue,
    IfindexKey,
    IpcacheKey,
    IpcacheValue,
    MemberKey,
    ServiceKey,
    ServiceValue,
)
from agent.datapath.maps import Maps
from agent.datapath.reasons import Reason
from tests.simulation.packets.packet_flows import (
    BY_TUNNEL,
    LOOPBACK,
    OPENING,
    RST,
    TCP,
    VIA_STACK,
    WAY,
    Flow,
    Flows,
    Lot,
    NodeFacts,
    Segment,
    establishes,
    key_of,
    reverse_of,
)
from tests.simulation.packets.packet_policy import Entries, index, why_denied

HOST, WORLD, REMOTE_NODE, KUBE_APISERVER = 1, 2, 6, 7
NOWHERE: Final = "0.0.0.0"  # what a map says for no tunnel


@dataclass
class _Way:
    """The facts of one packet on its way."""

    segment: Segment
    direction: Direction = Direction.EGRESS
    source_identity: int = 0
    destination_identity: int = 0
    backend_id: int = 0
    flags: int = 0
    frontend: tuple[str, int] | None = None
    is_midstream: bool = False
    endpoint: EndpointValue | None = None
    local: EndpointValue | None = None
    remote: IpcacheValue | None = None
    outer: str = ""


class _Ended(Exception):  # noqa: N818  # a way that ends is no error
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class PacketPath:
    """One node's programs. `entries` are those of the policy map as it is when they are asked for."""

    def __init__(self, maps: Maps, facts: NodeFacts, entries: Callable[[], Entries] | None = None) -> None:
        self._maps, self._facts, self._flows = maps, facts, Flows(maps, facts)
        self._entries = entries or (lambda: index(maps))

    # ---- the three ways in

    def from_pod(self, ifindex: int, segment: Segment) -> Lot:
        """A pod sends it."""
        way = _Way(segment)
        try:
            way.endpoint = sender = self._maps.endpoints_by_ifindex.get(IfindexKey(ifindex))
            if sender is None:
                raise _Ended(Reason.NO_CONFIGURATION)
            way.source_identity = sender.identity
            if segment.source != sender.address:
                raise _Ended(Reason.INVALID_SOURCE_IP)
            if segment.destination == LOOPBACK_ADDRESS:
                return self._deliver(way, sender, is_reply_only=True)
            if self._is_answer(way, is_likely=True):
                self._find_way(way)
            else:
                self._open_or_continue(way, sender)
            return self._leave(way)
        except _Ended as end:
            is_refused = end.reason is Reason.NO_BACKEND and not (segment.protocol == TCP and segment.flags & RST)
            return Lot("refused" if is_refused else "dropped", segment, end.reason)

    def from_overlay(self, segment: Segment, identity: int, outer: str) -> Lot:
        """It comes from the node `outer` with this identity."""
        way = _Way(segment, Direction.INGRESS, source_identity=identity, outer=outer)
        try:
            self._check_sender(way)
            to = self._endpoint(segment.destination)
            if to is None:
                raise _Ended(Reason.UNROUTABLE)
            return self._deliver(way, to)
        except _Ended as end:
            is_told = end.reason is Reason.UNROUTABLE and segment.destination != self._facts.address
            return Lot("refused" if is_told else "dropped", segment, end.reason)

    def to_pod(self, ifindex: int, segment: Segment) -> Lot:
        """The node's own stack sends it into a pod."""
        way = _Way(segment, Direction.INGRESS)
        try:
            to = self._maps.endpoints_by_ifindex.get(IfindexKey(ifindex))
            if to is None:
                raise _Ended(Reason.NO_CONFIGURATION)
            local = self._endpoint(segment.source)
            remote = None if local else self._known(segment.source)
            way.source_identity = local.identity if local else remote.identity if remote else WORLD
            is_ours = remote is not None and remote.cluster_id == self._facts.cluster_id
            is_old = is_ours and segment.protocol == TCP and not segment.opens
            if remote is not None and remote.tunnel != NOWHERE and not is_old:
                raise _Ended(Reason.NOT_BY_TUNNEL)
            return self._deliver(way, to, is_via_stack=True)
        except _Ended as end:
            return Lot("dropped", segment, end.reason)

    # ---- out of a pod

    def _open_or_continue(self, way: _Way, sender: EndpointValue) -> None:
        flow = self._translate_service(way)
        key = key_of(way.segment, ConntrackKind.EGRESS)
        flow = flow or self._flows.lookup(key)
        if flow is None and way.frontend is None:
            if self._is_answer(way, is_likely=False):
                self._find_way(way)
                return
            if not way.is_midstream and not way.segment.opens:
                flow = self._translate_orphan(way)
            key = key_of(way.segment, ConntrackKind.EGRESS)
            flow = flow or self._flows.lookup(key)
        self._find_way(way)
        is_old = way.segment.protocol == TCP and not way.segment.opens
        if flow is None and way.frontend is None and is_old:
            is_ours = way.remote is not None and way.remote.cluster_id == self._facts.cluster_id
            way.flags |= VIA_STACK if way.local or is_ours else 0
        self._track(way, sender, key, flow)

    def _leave(self, way: _Way) -> Lot:
        if way.flags & VIA_STACK:
            return Lot("stack", way.segment)
        if way.local is not None:
            return self._deliver(way, way.local, is_hairpin=bool(way.flags & LOOPBACK))
        if way.segment.protocol != TCP and way.segment.destination_port == self._facts.vxlan_port:
            raise _Ended(Reason.ENCAPSULATION_PROHIBITED)
        tunnel = way.remote.tunnel if way.remote is not None else NOWHERE
        if tunnel == NOWHERE and way.flags & BY_TUNNEL and way.remote is not None and _is_node(way.remote):
            tunnel = way.segment.destination
        return Lot("stack", way.segment) if tunnel == NOWHERE else Lot("overlay", way.segment, to=tunnel)

    def _is_answer(self, way: _Way, *, is_likely: bool) -> bool:
        if way.segment.opens:
            return False
        key = reverse_of(way.segment, ConntrackKind.INGRESS)
        flow = self._flows.likely(way.segment, key) if is_likely else self._flows.lookup(key)
        if flow is None:
            return False
        way.flags = flow.value.flags & WAY
        self._flows.touch(flow, way.segment, is_reply=True)
        return True

    def _find_way(self, way: _Way) -> None:
        way.local = self._endpoint(way.segment.destination)
        way.remote = None if way.local else self._known(way.segment.destination)
        found = way.local or way.remote
        way.destination_identity = found.identity if found else WORLD

    # ---- services

    def _translate_service(self, way: _Way) -> Flow | None:
        segment = way.segment
        head_key = ServiceKey(segment.destination, segment.destination_port, segment.protocol)
        head = self._maps.services.get(head_key)
        if head is None:
            return None
        key, is_middle = key_of(segment, ConntrackKind.SERVICE), segment.protocol == TCP and not segment.opens
        known, connection = self._recall(way, key)
        if known is not None and self._keeps_backend(segment, head, known, connection):
            is_gone = self._is_gone(known.value)
            if not is_gone:
                self._redirect(way, known.value.backend_id, known.value.nat_address, known.value.nat_port)
                return connection
            if is_middle:
                raise _Ended(Reason.NO_BACKEND)
        elif known is None and is_middle:
            way.is_midstream = True
            return connection
        backend_id = self._select(way, head_key, head)
        backend = self._maps.backends.get(BackendKey(backend_id))
        if backend is None:
            raise _Ended(Reason.NO_BACKEND)
        value = ConntrackValue(
            1, 0, 0, way.source_identity, backend_id, nat_address=backend.address, nat_port=backend.port
        )
        self._flows.create(segment, key, value, known)
        self._redirect(way, backend_id, backend.address, backend.port)
        return None

    def _translate_orphan(self, way: _Way) -> Flow | None:
        known, connection = self._recall(way, key_of(way.segment, ConntrackKind.SERVICE))
        if known is None:
            return connection
        if self._is_gone(known.value):
            raise _Ended(Reason.NO_BACKEND)
        self._redirect(way, known.value.backend_id, known.value.nat_address, known.value.nat_port)
        return connection

    def _recall(self, way: _Way, key: ConntrackKey) -> tuple[Flow | None, Flow | None]:
        """A service's entry that is alive, and the connection it belongs to, by which it lives."""
        found = self._flows.find(key)
        if found is None:
            return None, None
        backend, segment = found.value.nat_address, way.segment
        source = LOOPBACK_ADDRESS if backend == segment.source else segment.source
        ports = (segment.source_port, found.value.nat_port)
        connection = self._flows.lookup(ConntrackKey(source, backend, *ports, segment.protocol, ConntrackKind.EGRESS))
        if connection is not None and self._flows.follow(found, connection.value, segment):
            found = self._flows.find(key)
        alive = found if found is not None and self._flows.is_alive(found.value) else None
        return alive, connection if alive is not None else None

    def _keeps_backend(self, segment: Segment, head: ServiceValue, known: Flow, connection: Flow | None) -> bool:
        is_live = connection is not None and not known.is_over
        return not segment.opens or (is_live and self._is_choosable(head, known.value.backend_id))

    def _is_choosable(self, head: ServiceValue, backend_id: int) -> bool:
        backend = self._maps.backends.get(BackendKey(backend_id))
        is_member = self._maps.members.get(MemberKey(head.service_id, backend_id)) is not None
        return backend is not None and backend.state == 0 and is_member

    def _select(self, way: _Way, head_key: ServiceKey, head: ServiceValue) -> int:
        client = AffinityKey(way.segment.source, head.service_id)
        if head.flags & 1:
            kept = self._maps.affinity.get(client)
            is_fresh = kept is not None and self._facts.now_ns() - kept.last_used_ns < head.backend_id * 10**9
            if kept is not None and is_fresh and self._is_choosable(head, kept.backend_id):
                self._maps.affinity.update([(client, AffinityValue(self._facts.now_ns(), kept.backend_id))])
                return kept.backend_id
        if not head.count:
            return 0
        slot = self._maps.services.get(head_key._replace(slot=self._facts.choose(head.count) + 1))
        if slot is None:
            return 0
        if head.flags & 1:
            self._maps.affinity.update([(client, AffinityValue(self._facts.now_ns(), slot.backend_id))])
        return slot.backend_id

    def _is_gone(self, value: ConntrackValue) -> bool:
        backend: BackendValue | None = self._maps.backends.get(BackendKey(value.backend_id))
        if backend is not None and (backend.address, backend.port) == (value.nat_address, value.nat_port):
            return False
        if self._endpoint(value.nat_address) is not None:
            return False
        known = self._known(value.nat_address)
        return known is None or known.identity == 0 or bool(known.identity >> 24)

    @staticmethod
    def _redirect(way: _Way, backend_id: int, address: str, port: int) -> None:
        segment = way.segment
        way.backend_id, way.frontend = backend_id, (segment.destination, segment.destination_port)
        source = LOOPBACK_ADDRESS if address == segment.source else segment.source
        way.flags |= LOOPBACK if source == LOOPBACK_ADDRESS else 0
        way.segment = segment._replace(source=source, destination=address, destination_port=port)

    # ---- into a pod

    def _check_sender(self, way: _Way) -> None:
        node, inner = self._known(way.outer), self._known(way.segment.source)
        identity = way.source_identity
        if identity >> 24 or identity == HOST:
            raise _Ended(Reason.INVALID_IDENTITY)
        if node is None or not _is_node(node):
            raise _Ended(Reason.UNKNOWN_SENDER)
        if identity >= 256 and identity >> self._facts.cluster_shift != node.cluster_id:
            raise _Ended(Reason.INVALID_CLUSTER_ID)
        if identity == KUBE_APISERVER and node.cluster_id != self._facts.cluster_id:
            raise _Ended(Reason.INVALID_IDENTITY)
        is_foreign = inner is None or inner.cluster_id != node.cluster_id or inner.identity == HOST
        if inner is None or is_foreign or self._endpoint(way.segment.source) is not None:
            raise _Ended(Reason.FOREIGN_SOURCE)
        if identity == REMOTE_NODE and not _is_node(inner):
            raise _Ended(Reason.INVALID_IDENTITY)
        if identity in (REMOTE_NODE, KUBE_APISERVER) and inner.identity >> 24 == 2:
            way.source_identity = inner.identity

    def _deliver(
        self,
        way: _Way,
        to: EndpointValue,
        *,
        is_reply_only: bool = False,
        is_hairpin: bool = False,
        is_via_stack: bool = False,
    ) -> Lot:
        way.direction, way.destination_identity = Direction.INGRESS, to.identity
        if not is_hairpin:
            self._admit(way, to, is_reply_only=is_reply_only, is_via_stack=is_via_stack)
        return Lot("endpoint", way.segment, to=to.address)

    def _admit(self, way: _Way, to: EndpointValue, *, is_reply_only: bool, is_via_stack: bool) -> None:
        segment, may_be_reply = way.segment, not way.segment.opens
        reverse = reverse_of(segment, ConntrackKind.EGRESS)
        if may_be_reply and self._accept_reply(way, self._flows.likely(segment, reverse)):
            return
        key = key_of(segment, ConntrackKind.INGRESS)
        flow = None if is_reply_only else self._flows.lookup(key)
        if flow is None and may_be_reply and self._accept_reply(way, self._flows.lookup(reverse)):
            return
        if is_reply_only:
            raise _Ended(Reason.UNROUTABLE)
        way.flags = VIA_STACK if is_via_stack else BY_TUNNEL if way.outer else 0
        self._track(way, to, key, flow)

    def _accept_reply(self, way: _Way, flow: Flow | None) -> bool:
        if flow is None:
            return False
        self._flows.touch(flow, way.segment, is_reply=True)
        if flow.value.nat_port:
            backend = way.segment.source
            way.segment = way.segment._replace(source=flow.value.nat_address, source_port=flow.value.nat_port)
            if flow.value.flags & LOOPBACK:
                way.segment = way.segment._replace(destination=backend)
        return True

    # ---- flows

    def _track(self, way: _Way, endpoint: EndpointValue, key: ConntrackKey, flow: Flow | None) -> None:
        is_egress = key.kind == ConntrackKind.EGRESS
        peer = way.destination_identity if is_egress else way.source_identity
        nat_address, nat_port = way.frontend or (NOWHERE, 0)
        if flow is not None and not (way.segment.opens and flow.is_over):
            if (flow.value.policy_revision, flow.value.peer_identity) != (endpoint.policy_revision, peer):
                if not flow.value.flags & LOOPBACK:
                    self._judge(way, endpoint, peer)
                flow.set(policy_revision=endpoint.policy_revision, peer_identity=peer)
            if is_egress:
                flow.set(nat_address=nat_address, nat_port=nat_port)
                way.flags |= flow.value.flags & VIA_STACK
            elif (flow.value.flags ^ way.flags) & WAY:
                flow.set(flags=flow.value.flags ^ ((flow.value.flags ^ way.flags) & WAY))
            is_established = flow.value.flags & OPENING and establishes(flow.value, way.segment)
            self._flows.touch(flow, way.segment, is_reply=False)
            if is_established:
                self._flows.establish(flow)
            elif flow.key.protocol == TCP and not flow.value.flags & OPENING and flow.is_over:
                self._flows.end(flow)
            return
        if not way.flags & LOOPBACK:
            self._judge(way, endpoint, peer)
        value = ConntrackValue(1, 0, 0, peer, way.backend_id, endpoint.policy_revision, flags=way.flags)
        if is_egress:
            value = value._replace(nat_address=nat_address, nat_port=nat_port)
        self._flows.create(way.segment, key, value, flow)

    def _judge(self, way: _Way, endpoint: EndpointValue, peer: int) -> None:
        place = (way.segment.protocol, way.segment.destination_port)
        reason = why_denied(self._entries(), endpoint, way.direction, peer, *place)
        if reason is not None:
            raise _Ended(reason)

    # ---- addresses

    def _endpoint(self, address: str) -> EndpointValue | None:
        return self._maps.endpoints_by_address.get(AddressKey(address))

    def _known(self, address: str) -> IpcacheValue | None:
        return self._maps.ipcache.get(IpcacheKey(address))


def _is_node(value: IpcacheValue) -> bool:
    return value.identity in (REMOTE_NODE, KUBE_APISERVER) or value.identity >> 24 == 2
