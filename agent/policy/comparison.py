# SPDX-License-Identifier: Apache-2.0
"""The policy and endpoint maps and the attachments of this node's pods against the verdicts table. Only reads."""

from __future__ import annotations

from collections.abc import Iterable

from agent.comparison import UNEXPECTED, compare_entries
from agent.datapath.layout import AddressKey, IfindexKey, PolicyKey
from agent.datapath.maps import Maps
from agent.policy.fit import fit
from agent.policy.ops import Attachments, endpoint_value
from agent.policy.plan import policy_value
from agent.tables import EndpointVerdicts
from meshapi.agent import MapDifference


def compare_endpoints(
    maps: Maps, attachments: Attachments, rows: Iterable[EndpointVerdicts], share: int
) -> list[MapDifference]:
    """Every entry and every attachment that is not as these rows say. Any policy revision is right that both maps hold."""
    kept = tuple(rows)
    by_address, by_ifindex = dict(maps.endpoints_by_address.items()), dict(maps.endpoints_by_ifindex.items())
    revisions = {key.address: value.policy_revision for key, value in by_address.items()}
    values = [endpoint_value(row, revisions.get(row.endpoint.address, 0)) for row in kept if not row.is_node]
    further = {row.endpoint.address: row.endpoint.ipv6 for row in kept}
    by_key = {AddressKey(address): v for v in values for address in (v.address, *further[v.address])}
    found = compare_entries("endpoints_by_address", by_key, by_address)
    found += compare_entries("endpoints_by_ifindex", {IfindexKey(v.ifindex): v for v in values}, by_ifindex)
    held = dict(maps.node.items())
    revision = next((value.policy_revision for value in held.values()), 0)
    node = {IfindexKey(0): endpoint_value(row, revision) for row in kept if row.is_node}
    found += compare_entries("node", node, held)
    entries = {
        PolicyKey(row.endpoint.endpoint_id, *key): policy_value(entry)
        for row in kept
        for key, entry in fit(row.policy, min(row.most or share, share), row.own_ranges).entries.items()
    }
    found += compare_entries("policy", entries, dict(maps.policy.items()))
    interfaces = {row.endpoint.ifindex for row in kept if not row.is_node}
    found += [
        MapDifference("attachments", f"ifindex={ifindex}", "missing: the pod's interface does not run our programs")
        for ifindex in attachments.unattached(interfaces)
    ]
    return found + [
        MapDifference("attachments", f"ifindex={ifindex}", UNEXPECTED)
        for ifindex in attachments.attached() - interfaces
    ]
