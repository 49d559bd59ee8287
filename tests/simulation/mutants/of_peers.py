# SPDX-License-Identifier: Apache-2.0
"""Wrong decisions about what other clusters say, and about what a store says of when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.ipcache.writer import PrefixWriter
from agent.mesh.held_records import Held
from agent.mesh.networks import Networks
from kvstore.clientconfig import ClientConfig
from kvstore.sharedstore import SharedStore
from kvstore.watch import PrefixFollower
from meshpeer.caps import Budget
from meshpeer.record_views import View
from meshpeer.twins import Twins
from tests.simulation.mutants.swap import swap


def _peer_claims_everything() -> None:
    """Case: a peer's node with the address of a pod of ours for its health checks. Both guards are off: what a peer may say, and
    that the own cluster's word goes before a peer's."""

    def rank(_self: Any, row: Any) -> Any:
        return (row.origin.value, row.cluster_id, row.cluster, row.name)

    swap(Networks, "refuse_address", lambda *_: None)
    swap(Networks, "refuse_host", lambda *_: None)
    swap(Networks, "refuse_identity", lambda *_: None)
    swap(Networks, "may_have_all", lambda *_: True)
    swap(Networks, "admit", lambda _self, node: (node, []))
    swap(PrefixWriter, "_rank", rank)


def _node_claims_believed() -> None:
    """Case: a peer's node with our network of services for its pods."""
    swap(Networks, "admit", lambda _self, node: (node, []))


def _canary_ignored() -> None:
    def init(self: Any, source: Any, prefix: bytes, canary: bytes | None, *rest: Any, **named: Any) -> None:
        del canary
        original(self, source, prefix, None, *rest, **named)

    original = PrefixFollower.__init__
    swap(PrefixFollower, "__init__", init)


def _lease_loss_unheard() -> None:
    """Both guards are off: who is told of a lease that ended, and who looks at what stands in the store."""

    async def nothing(*_: Any, **__: Any) -> int:
        return 0

    swap(SharedStore, "_on_loss", lambda *_: None)
    swap(SharedStore, "read_back", nothing)


def _last_part_wins() -> None:
    """Both guards are off: which part said it later, and that the other part is asked again when this one takes it back."""

    def settle(self: Any, changes: Any, _revisions: Any, other: Any, *, is_private: bool) -> Any:
        return original(self, changes, {}, other, is_private=is_private)[0], False

    original = Twins.settle
    swap(Twins, "settle", settle)


def _listing_sweeps_nothing() -> None:
    swap(View, "take_gone", lambda *_: [])


def _refused_stay() -> None:
    """What was refused of a peer is remembered when the peer has taken it back."""
    swap(Held, "pop", lambda *_: None)


def _another_store_unnoticed() -> None:
    """Whoever resumes goes on from the revision of the store that was there before."""
    swap(PrefixFollower, "_check_position", lambda *_: None)


def _trust_read_once() -> None:
    """Whoever reads a peer's store believes the authorities that its files had first."""
    first: dict[str, bytes] = {}

    def read(self: Any, server_name: Any) -> Any:
        found = original(self, server_name)
        return replace(found, ca=first.setdefault(self.ca_file, found.ca))

    original = ClientConfig._read
    swap(ClientConfig, "_read", read)


def _cap_ignored() -> None:
    """A peer may have as much of a store as it likes."""

    def use(self: Any, size: int) -> bool:
        self.used += size
        return True

    swap(Budget, "use", use)


def _taken_back_is_counted() -> None:
    """What a peer took back counts as kept for ever, until nothing more is taken of it."""
    swap(View, "_forget", lambda self, key: self._known.pop(key))


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "peer-claims-everything": _peer_claims_everything,
    "node-claims-believed": _node_claims_believed,
    "canary-ignored": _canary_ignored,
    "lease-loss-unheard": _lease_loss_unheard,
    "last-part-wins": _last_part_wins,
    "listing-sweeps-nothing": _listing_sweeps_nothing,
    "refused-stay": _refused_stay,
    "another-store-unnoticed": _another_store_unnoticed,
    "trust-read-once": _trust_read_once,
    "cap-ignored": _cap_ignored,
    "taken-back-is-counted": _taken_back_is_counted,
}
