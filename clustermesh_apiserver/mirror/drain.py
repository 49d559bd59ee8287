# SPDX-License-Identifier: Apache-2.0
"""A removed peer leaves our store: first its configuration, by which readers find it, after a grace its copied records."""

from __future__ import annotations

import logging
from typing import Final

from kvstore.errors import KvError
from kvstore.store import Store
from meshkit.clock import Clock
from meshmodel import keys
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

GRACE_S: Final = 180.0
ATTEMPTS: Final = 6
FIRST_RETRY_S: Final = 2.0


async def drain(store: Store, peer: ClusterName, clock: Clock, *, grace_s: float = GRACE_S) -> None:
    """Nothing of the peer is left: its config at once, so that readers go by themselves; its records after the grace.

    Tried again a few times, without another grace; then given up, loudly: the leases remove the rest.
    """
    delay_s, is_graced = FIRST_RETRY_S, False
    for attempt in range(ATTEMPTS):
        try:
            await store.apply({keys.cluster_config_key(peer): None})
            if not is_graced:
                await clock.sleep(grace_s)
                is_graced = True
            await store.delete_prefix(keys.synced_prefix(peer))
            for kind in keys.Kind:
                await store.delete_prefix(keys.prefix_of(kind, peer, cached=True))
        except KvError as exc:
            log.warning(
                "removed peer not drained, retrying", extra={"peer": peer, "error": repr(exc), "delay_s": delay_s}
            )
            if attempt < ATTEMPTS - 1:
                await clock.sleep(delay_s)
                delay_s *= 2
            continue
        log.info("removed peer drained", extra={"peer": peer})
        return
    log.error("removed peer not drained, its records stay until their leases end", extra={"peer": peer})
