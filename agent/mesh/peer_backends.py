# SPDX-License-Identifier: Apache-2.0
"""Which backends of one cluster's records are taken: those that it may speak for, while all together are not too many. Pure."""

from __future__ import annotations

from agent.mesh.networks import ClaimRefusal, Networks
from agent.mesh.record_room import NodeNetworks, PeerRooms, RecordRoom, SharedRoom
from agent.tables import Backend
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

Taken = tuple[tuple[Backend, ...], list[ClaimRefusal]]


class PeerBackends:
    """The own cluster's are not bounded, and always believed."""

    def __init__(self, name: ClusterName, own: ClusterName, networks: Networks, shared: SharedRoom) -> None:
        self._name, self._is_own, self._networks = name, name == own, networks
        self.room = RecordRoom("backends", None if name == own else shared)

    def believable(self, backends: tuple[Backend, ...]) -> Taken:
        """The backends whose addresses the cluster may speak for, and what was refused: one bad one costs one."""
        refuse, name = self._networks.refuse_address, self._name
        if self._is_own or self._networks.may_have_all(name, [b.address for b in backends]):
            return backends, []
        refusals = [refusal for b in backends if (refusal := refuse(name, b.address)) is not None]
        if not refusals:
            return backends, []
        return tuple(b for b in backends if refuse(name, b.address) is None), refusals

    def take(self, kind: Kind, key: str, backends: tuple[Backend, ...]) -> Taken:
        """The record has these backends from now on. Raises: RecordError when there is no room for them; then it has none."""
        kept, refusals = self.believable(backends)
        self.room.take(kind, key, len(kept))
        return kept, refusals


def rooms_of(
    name: ClusterName, own: ClusterName, networks: Networks, rooms: PeerRooms
) -> tuple[PeerBackends, NodeNetworks]:
    """What counts the parts of this cluster's records."""
    is_own = name == own
    return PeerBackends(name, own, networks, rooms.backends), NodeNetworks(None if is_own else rooms.networks)
