# SPDX-License-Identifier: Apache-2.0
"""Wrong decisions about a program's own life: what it waits for, what it remembers, what it does about failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent import node_agent
from agent.endpoints.discovery import EndpointDiscovery
from agent.loadbalancer import ops as service_ops
from agent.mesh.own_node import OwnNodeFollower
from clustermesh_apiserver.problems import Problems
from kube.listwatch import ListWatch
from tests.simulation.mutants.swap import swap


def _writes_before_listings() -> None:
    async def at_once(*_: Any) -> None:
        return

    swap(node_agent, "wait_until_listed", at_once)


def _listing_again_forgets() -> None:
    def listing(self: Any, emit: Any) -> None:
        self._known.clear()
        original(self, emit)

    original = ListWatch._list
    swap(ListWatch, "_list", listing)


def _endpoint_ids_anew() -> None:
    swap(EndpointDiscovery, "restore", lambda *_: None)


def _failed_write_is_done() -> None:
    def apply_rows(rows: Any, key: Any, write: Any) -> dict[Any, Exception]:
        original(rows, key, write)
        return {}

    original = service_ops.apply_rows  # type: ignore[attr-defined]
    swap(service_ops, "apply_rows", apply_rows)


def _move_unheard() -> None:
    """An agent goes on with the address that its node had when it started."""
    swap(OwnNodeFollower, "take", lambda *_: None)


def _problems_untold() -> None:
    """What is wrong with objects that are published is neither in the status nor on the object."""
    swap(Problems, "set_problems", lambda *_: None)


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "writes-before-listings": _writes_before_listings,
    "listing-again-forgets": _listing_again_forgets,
    "endpoint-ids-anew": _endpoint_ids_anew,
    "failed-write-is-done": _failed_write_is_done,
    "move-unheard": _move_unheard,
    "problems-untold": _problems_untold,
}
