# SPDX-License-Identifier: Apache-2.0
"""What a node's policy map says of one packet of one endpoint. Twin of bpf/policy.h."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from agent.datapath.layout import Direction, EndpointValue, PolicyKey, PolicyValue
from agent.datapath.maps import Maps
from agent.datapath.reasons import Reason

Entry = tuple[PolicyKey, PolicyValue]
Entries = Mapping[tuple[int, int, int], Sequence[Entry]]
"""Entries by endpoint, direction and identity."""


def index(maps: Maps) -> Entries:
    """All entries of the policy map as it is now."""
    found: defaultdict[tuple[int, int, int], list[Entry]] = defaultdict(list)
    for key, value in maps.policy.items():
        found[key.endpoint_id, int(key.direction), key.identity].append((key, value))
    return found


def why_denied(
    entries: Entries, endpoint: EndpointValue, direction: Direction, peer: int, protocol: int, port: int
) -> Reason | None:
    """Why the endpoint may not talk with this identity; None if it may, or enforces nothing in this direction."""
    if not endpoint.flags & (1 if direction is Direction.INGRESS else 2):
        return None
    everybody = _entry(entries, endpoint.endpoint_id, direction, 0, protocol, port)
    if peer == 0:
        if everybody is not None and everybody[1].deny:
            return Reason.POLICY_DENY_RULE
        whole = _entry(entries, endpoint.endpoint_id, direction, 0, 0, 0)
        is_open = whole is not None and not whole[1].deny and not whole[1].proxy_port
        return None if is_open else Reason.UNKNOWN_IDENTITY
    own = _entry(entries, endpoint.endpoint_id, direction, peer, protocol, port)
    found = [entry for entry in (own, everybody) if entry is not None]
    if not found:
        return Reason.POLICY_DENIED
    winner = max(found, key=lambda entry: (entry[1].precedence, entry[0].l4_bits))[1]  # the first of equals
    if winner.deny:
        return Reason.POLICY_DENY_RULE
    return Reason.PROXY_UNSUPPORTED if winner.proxy_port else None


def _entry(
    entries: Entries, endpoint_id: int, direction: Direction, peer: int, protocol: int, port: int
) -> Entry | None:
    """The entry with the most bits that matches."""
    found = [
        (key, value)
        for key, value in entries.get((endpoint_id, int(direction), peer), ())
        if key.protocol in (0, protocol) and key.port >> (16 - key.port_bits) == port >> (16 - key.port_bits)
    ]
    return max(found, key=lambda entry: entry[0].l4_bits, default=None)
