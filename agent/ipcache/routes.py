# SPDX-License-Identifier: Apache-2.0
"""REST paths of addresses. Reads, never writes."""

from __future__ import annotations

from agent.ipcache.rows import address_row, address_rows
from agent.tables import AgentDB
from meshapi.agent import AddressRow
from meshkit.rest import NotAnswered, Rest


def add_address_routes(rest: Rest, db: AgentDB) -> None:
    @rest.get(
        "/v1/ip/{address}",
        AddressRow,
        tag="tables",
        errors={400: "not an address", 404: "in no known prefix: it is world"},
    )
    async def ip(address: str) -> AddressRow:
        """Whose an address is: the longest prefix that holds it."""
        try:
            row = address_row(db, address)
        except ValueError as exc:
            raise NotAnswered(400, f"{address!r} is not an address") from exc
        if row is None:
            raise NotAnswered(404, f"{address} is in no known prefix: it is world")
        return row

    @rest.get("/v1/ips", list[AddressRow], tag="tables")
    async def ips(cluster: str = "") -> list[AddressRow]:
        """Every prefix of the ipcache."""
        return address_rows(db, cluster)
