# SPDX-License-Identifier: Apache-2.0
"""Several slices of one service to one set of backends. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.tables import NO_HINTS, Backend
from meshmodel.condition import Condition


def merge_backends(groups: Iterable[Iterable[Backend]]) -> tuple[Backend, ...]:
    """One backend per address, port and protocol, with every port name, in address order; active wins over terminating.

    Unlike in the legacy record, two slices that share an address add their ports.
    """
    merged: dict[tuple[str, int, str], Backend] = {}
    for group in groups:
        for backend in group:
            key = (backend.address, backend.port, backend.protocol)
            old = merged.get(key)
            if old is None:
                merged[key] = backend
                continue
            is_active = Condition.ACTIVE in (old.condition, backend.condition)
            merged[key] = old._replace(
                names=tuple(sorted({*old.names, *backend.names})),
                condition=Condition.ACTIVE if is_active else Condition.TERMINATING,
                zone=old.zone or backend.zone,
                node=old.node or backend.node,
                hints=backend.hints if old.hints is NO_HINTS else old.hints,
            )
    return tuple(merged[key] for key in sorted(merged))
