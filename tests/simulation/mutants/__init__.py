# SPDX-License-Identifier: Apache-2.0
"""Faults made by hand, one for each thing that must hold: histories that do not find them are worth nothing.

A mutant puts a wrong decision in the place of the product's for as long as the process lives.
`python -m tests.simulation --mutant NAME` looks for a history that fails; docs/testing.md says how many it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent import node_agent
from agent.endpoints.discovery import EndpointDiscovery
from agent.loadbalancer import select, writer
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.mesh.networks import Networks
from clustermesh_apiserver.convert import exporter
from kube.listwatch import ListWatch
from kvstore.sharedstore import SharedStore
from kvstore.watch import PrefixFollower
from meshmodel.annotations import Affinity
from meshpeer.record_views import View
from meshpeer.twins import Twins


def _heads_first() -> None:
    def publish(self: Any, plans: Any) -> None:
        self._services.update([item for plan in plans for item in self._head_write(plan)])
        original(self, plans)

    original = LoadBalancerTarget._publish
    LoadBalancerTarget._publish = publish  # type: ignore[method-assign]


def _canary_ignored() -> None:
    def init(self: Any, source: Any, prefix: bytes, canary: bytes | None, *rest: Any, **named: Any) -> None:
        del canary
        original(self, source, prefix, None, *rest, **named)

    original = PrefixFollower.__init__
    PrefixFollower.__init__ = init  # type: ignore[method-assign]


def _peer_claims_everything() -> None:
    Networks.refuse_address = lambda *_: None  # type: ignore[method-assign]
    Networks.refuse_host = lambda *_: None  # type: ignore[method-assign]
    Networks.refuse_identity = lambda *_: None  # type: ignore[method-assign]
    Networks.may_have_all = lambda *_: True  # type: ignore[method-assign]
    Networks.admit = lambda _self, node: (node, [])  # type: ignore[method-assign]


def _writes_before_listings() -> None:
    async def at_once(*_: Any) -> None:
        return

    node_agent.wait_until_listed = at_once  # type: ignore[attr-defined]


def _listing_again_forgets() -> None:
    def listing(self: Any, emit: Any) -> None:
        self._known.clear()
        original(self, emit)

    original = ListWatch._list
    ListWatch._list = listing  # type: ignore[method-assign]


def _lease_loss_unheard() -> None:
    SharedStore._on_loss = lambda *_: None  # type: ignore[method-assign]


def _last_part_wins() -> None:
    def settle(self: Any, changes: Any, _revisions: Any, other: Any, *, is_private: bool) -> Any:
        return original(self, changes, {}, other, is_private=is_private)

    original = Twins.settle
    Twins.settle = settle  # type: ignore[method-assign]


def _shared_ignored() -> None:
    exporter.is_shared = lambda service, _namespace: service.annotations.global_  # type: ignore[attr-defined]


def _affinity_swapped() -> None:
    def sides(counts: Any, *, is_global: bool, affinity: Affinity) -> Any:
        other = {Affinity.LOCAL: Affinity.REMOTE, Affinity.REMOTE: Affinity.LOCAL}
        return original(counts, is_global=is_global, affinity=other.get(affinity, affinity))

    original = select.sides
    select.sides = writer.sides = sides  # type: ignore[attr-defined]


def _listing_sweeps_nothing() -> None:
    View.take_gone = lambda *_: []  # type: ignore[method-assign]


def _endpoint_ids_anew() -> None:
    EndpointDiscovery.restore = lambda *_: None  # type: ignore[method-assign]


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "heads-first": _heads_first,
    "canary-ignored": _canary_ignored,
    "peer-claims-everything": _peer_claims_everything,
    "writes-before-listings": _writes_before_listings,
    "listing-again-forgets": _listing_again_forgets,
    "lease-loss-unheard": _lease_loss_unheard,
    "last-part-wins": _last_part_wins,
    "shared-ignored": _shared_ignored,
    "affinity-swapped": _affinity_swapped,
    "listing-sweeps-nothing": _listing_sweeps_nothing,
    "endpoint-ids-anew": _endpoint_ids_anew,
}
