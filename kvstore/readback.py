# SPDX-License-Identifier: Apache-2.0
"""Prefixes that somebody else changes are read back now and then, and what is wrong in them is written again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from kvstore.errors import Denied, KvError
from kvstore.sharedstore import SharedStore
from meshkit.clock import Clock

log = logging.getLogger(__name__)

SOONEST_S: Final = 5.0
READ_BACK_S: Final = 60.0
"""Between two looks at most; sooner where a look costs so little that a SHARE of the time pays for it."""
SHARE: Final = 0.01


async def keep_reading_back(stores: Callable[[], Iterable[tuple[str, SharedStore, bool]]], clock: Clock) -> None:
    """Until cancelled. `stores` gives each with the name to log, and whether others write under its prefix too."""
    pause_s = SOONEST_S
    while True:
        await clock.sleep(pause_s)
        began_s = clock.monotonic()
        for name, store, is_shared in stores():
            try:
                repaired = await store.read_back(is_shared=is_shared)
            except (KvError, Denied) as exc:
                log.debug("own records not read back", extra={"key": name, "error": repr(exc)})
                continue
            if repaired:
                facts = {"key": name, "reason": f"{repaired} keys"}
                log.warning("records changed by somebody else, writing them again", extra=facts)
        pause_s = min(max(SOONEST_S, (clock.monotonic() - began_s) / SHARE), READ_BACK_S)
