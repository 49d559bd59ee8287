# SPDX-License-Identifier: Apache-2.0
"""Edits of this node's Node object: new addresses and pod networks are ours at once, also while the own store is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.bootstrap import OwnNode, read_node
from agent.core import Core
from agent.tables import Node, NodeAddress
from kube.client import KubeClient
from kube.reflector import Change, Reflector, Upsert
from kube.resource import NODES
from meshmodel.node import INTERNAL_IP

log = logging.getLogger(__name__)


class OwnNodeFollower:
    """`claim` is called with the node's row whenever the object says something else than before, `move` before it with an
    address that the node did not have. An address that was given by hand and is not the object's is not followed.

    The store's record of the node may hold more than the object, such as addresses of other kinds: these stay. An object without
    pod networks was made again and is given some later: until then the node's pods run in those that it had.
    """

    def __init__(self, core: Core, claim: Callable[[Node], None], move: Callable[[str], None]) -> None:
        self._core, self._claim, self._move = core, claim, move
        facts = core.facts
        known = {node.name: node for node in facts.own_nodes}
        self._last = known.get(facts.node, OwnNode(facts.node, facts.node_ip, facts.pod_cidrs))
        self._is_address_followed = self._last.ip in ("", facts.node_ip)

    async def run(self, client: KubeClient) -> None:
        """Until cancelled."""
        selector = f"metadata.name={self._core.facts.node}"
        await Reflector(client, NODES, strip=read_node, field_selector=selector).run(self.take)

    def take(self, batch: Sequence[Change[OwnNode]]) -> None:
        """A Node that is deleted changes nothing: its pods run until their own records go."""
        for change in batch:
            if not isinstance(change, Upsert) or change.obj.name != self._core.facts.node:
                continue
            found = change.obj if change.obj.pod_cidrs else replace(change.obj, pod_cidrs=self._last.pod_cidrs)
            if found != self._last:
                self._take(found)

    def _take(self, found: OwnNode) -> None:
        facts, before = self._core.facts, self._last
        self._last = found
        log.info("own node changed", extra={"node": found.name, "key": f"{found.ip} {' '.join(found.pod_cidrs)}"})
        row = self._core.db.nodes.get((facts.cluster, facts.node))
        if row is None:
            row = Node(facts.cluster, facts.cluster_id, facts.node, (), ())
        others = tuple(a for a in row.addresses if not (a.kind == INTERNAL_IP and a.ip in (before.ip, found.ip)))
        own = (NodeAddress(INTERNAL_IP, found.ip),) if found.ip else ()
        if self._is_address_followed and found.ip not in ("", self._core.db.node_address):
            self._move(found.ip)
        self._claim(replace(row, addresses=(*own, *others), pod_cidrs=found.pod_cidrs))
