# SPDX-License-Identifier: Apache-2.0
"""Addresses as rows of meshapi: whose each prefix is. Reads, never writes."""

from __future__ import annotations

import ipaddress

from agent.tables import AgentDB, Prefix
from meshapi.agent import AddressRow


def address_rows(db: AgentDB, cluster: str = "") -> list[AddressRow]:
    """Every known prefix, or those of one cluster."""
    rows = sorted(db.prefixes.rows(), key=lambda p: p.prefix)
    return [_address(db, row) for row in rows if not cluster or row.cluster == cluster]


def address_row(db: AgentDB, address: str) -> AddressRow | None:
    """The longest known prefix that holds an address or prefix; None if there is none. Raises: ValueError."""
    network = ipaddress.ip_network(address, strict=False)
    for length in range(network.prefixlen, -1, -1):
        row = db.prefixes.get(str(network.supernet(new_prefix=length)))
        if row is not None:
            return _address(db, row)
    return None


def _address(db: AgentDB, row: Prefix) -> AddressRow:
    return AddressRow(
        cidr=row.prefix,
        identity=row.identity,
        identity_known=row.is_known,
        host_ip=row.host,
        tunnel=row.tunnel,
        cluster=row.cluster,
        cluster_id=row.cluster_id,
        origin=row.origin.value,
        source="local" if row.cluster == db.own else "clustermesh",
        namespace=row.namespace,
        name=row.name,
    )
