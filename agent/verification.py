# SPDX-License-Identifier: Apache-2.0
"""Whether this node's maps and attachments are as the tables say, and the repair of what is not.

Reading is answered wherever the agent is read; the repair is a POST, which only the unix socket lets through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from agent.core import Core
from agent.feature import Feature
from agent.reports import Reconcilers
from kube.client import in_thread
from meshapi.agent import MapDifference, Verification
from meshkit.errors import MeshError
from meshkit.rest import NotAnswered, Rest

VERIFY_PATH: Final = "/v1/verify"
REPAIR_PATH: Final = "/v1/repair"
REPAIR_S: Final = 30.0
_UNREADABLE: Final = {503: "the kernel does not let its maps be read"}


def add_verification_routes(rest: Rest, core: Core, features: Iterable[Feature], reconcilers: Reconcilers) -> None:
    repairing = asyncio.Lock()

    @rest.get(VERIFY_PATH, Verification, tag="verify", errors=_UNREADABLE)
    async def verify() -> Verification:
        """Every map and attachment of this node against the tables: one item per difference."""
        try:
            return verification(core, reconcilers, await find_differences(features))
        except (MeshError, OSError) as exc:
            raise NotAnswered(503, str(exc)) from exc

    @rest.post(REPAIR_PATH, Verification, tag="verify", errors=_UNREADABLE)
    async def repair() -> Verification:
        """Reconcile, prune and attach now; answers with what was repaired and what remains."""
        try:
            async with repairing:
                return await repair_differences(core, features, reconcilers)
        except (MeshError, OSError) as exc:
            raise NotAnswered(503, str(exc)) from exc


async def find_differences(features: Iterable[Feature]) -> list[MapDifference]:
    """What every feature finds, in the order of places and keys. Raises: KernelError, OSError.

    What was written while one looked is no difference: what is found is looked for a second time.
    """
    found: list[MapDifference] = []
    for feature in features:
        first = await in_thread(feature.differences())
        again = await in_thread(feature.differences()) if first else ()
        found += [difference for difference in first if difference in again]
    return sorted(found)


async def repair_differences(core: Core, features: Iterable[Feature], reconcilers: Reconcilers) -> Verification:
    """Everything was compared and written again within REPAIR_S. Raises: KernelError, OSError."""
    kept = tuple(features)
    before = await find_differences(kept)
    for feature in kept:
        feature.doubt()
    deadline_s = core.clock.monotonic() + REPAIR_S
    not_begun = [name for name, one in sorted(reconcilers.items()) if not await one.repair(deadline_s)]
    after = await find_differences(kept)
    result = verification(core, reconcilers, after)
    remaining = {(difference.place, difference.key) for difference in after}
    result.repaired = [d for d in before if (d.place, d.key) not in remaining]
    result.not_begun = not_begun
    return result


def verification(core: Core, reconcilers: Reconcilers, differences: list[MapDifference]) -> Verification:
    """The differences, with what makes them expected: tables that are not complete, rows that are not written yet."""
    statuses = [reconciler.status() for reconciler in reconcilers.values()]
    return Verification(
        node=core.facts.node,
        differences=differences,
        waiting_for=list(core.db.waiting_for),
        pending=sum(status.pending + status.failed for status in statuses),
    )
