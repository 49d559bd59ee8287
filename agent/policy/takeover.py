# SPDX-License-Identifier: Apache-2.0
"""Ranges that no agent has written yet, when an agent takes over the maps of another that knew other policies.

What the policies were is not known any more, only what entries they left. So addresses have the identities of the new
policies first, and these are treated as the entries treat whoever the addresses were before; then come the new verdicts.
Pods and nodes of other labels are denied what their addresses were: others may have their identity, so nothing is allowed to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.datapath.layout import IpcacheKey, IpcacheValue
from agent.datapath.maps import Map
from agent.policy.ops import EndpointTarget
from agent.tables import Prefix
from meshmodel.identity import is_of_range, world_of


def take_over_ranges(target: EndpointTarget, ipcache: Map[IpcacheKey, IpcacheValue], rows: Iterable[Prefix]) -> None:
    """To be called before the first of these rows is written: nothing is allowed that was not when they are.

    Where there is no room for that, everything is denied. Can be called again after a failure.
    A number that addresses have already, of another range, is left as it is.

    Raises: MapError.
    """
    found = dict(ipcache.items())
    numbers = {value.identity for value in found.values()}
    likes: dict[int, int] = {}
    denied_as: set[tuple[int, int]] = set()
    for row in rows:
        if not row.is_known or row.identity in numbers:
            continue
        value = ipcache.get(IpcacheKey(row.prefix))
        before = int(world_of(row.prefix) if value is None else value.identity)
        if is_of_range(row.identity):
            likes[int(row.identity)] = before
        else:
            denied_as.add((int(row.identity), before))
    target.liken(likes, denied_as)
