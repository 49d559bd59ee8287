# SPDX-License-Identifier: Apache-2.0
"""Writes the verdicts of this node's pods as rows, each with the room that it has in the policy map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import replace

from agent.namespace_shares import NamespaceShares
from agent.tables import THE_NODE, AgentDB, Endpoint, EndpointVerdicts


class VerdictRows:
    """`judge` says what is enforced for an endpoint; `name_ranges`, of a row and its room, which ranges its own rules name."""

    def __init__(
        self,
        db: AgentDB,
        shares: NamespaceShares[str],
        judge: Callable[[Endpoint], EndpointVerdicts],
        name_ranges: Callable[[EndpointVerdicts, int], frozenset[int]],
    ) -> None:
        self._db, self._shares, self._judge, self._name_ranges = db, shares, judge, name_ranges

    def write(self, addresses: Set[str]) -> None:
        """The endpoints of these addresses are judged again, or gone. Call inside `db.write()`, when the node is judged."""
        judged = {}
        for address in sorted(addresses):
            endpoint = self._db.endpoints.get(address)
            if endpoint is None:
                self._db.verdicts.delete(address)
                self._shares.want(address, "", 0)
            else:
                row = judged[address] = self._judge(endpoint)
                self._shares.want(address, endpoint.namespace, row.policy.size)
        node = self._db.verdicts.get(THE_NODE.address)
        for address in sorted(self._shares.settle(0 if node is None else node.policy.size) - judged.keys()):
            known = self._db.verdicts.get(address)
            if known is not None:
                judged[address] = known
        self._put(self._with_room(address, row) for address, row in judged.items())

    def _with_room(self, address: str, row: EndpointVerdicts) -> EndpointVerdicts:
        most = self._shares.most(address)
        return replace(row, most=most, own_ranges=self._name_ranges(row, most))

    def _put(self, rows: Iterable[EndpointVerdicts]) -> None:
        """Who makes room is written before who takes it."""

        def takes_room(row: EndpointVerdicts) -> bool:
            before = self._db.verdicts.get(row.endpoint.address)
            return before is None or row.most >= before.most

        for row in sorted(rows, key=takes_room):
            self._db.verdicts.put(row)
