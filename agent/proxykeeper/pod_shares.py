# SPDX-License-Identifier: Apache-2.0
"""How many connections one pod may have open through the node's proxies: what a pod opens beyond its share is ended.

All pods of a node share the files and the memory of one Envoy. The kernel is asked which connections there are, so that nothing
stands in the way of the others, and a pod may be beyond its share until it is looked at again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.datapath.errors import KernelError
from agent.datapath.proxy_sockets import ProxyConnection, end_connections, proxy_connections
from meshkit.clock import Clock

_LOOK_S: Final = 0.5
_PAUSES: Final = 10
"""A look is followed by a pause of so many times what it took, so that many connections do not cost a CPU."""
_TELL_S: Final = 10.0
_PODS_AT_ODDS: Final = 8
"""So many pods with all of their share suffice to take all of a proxy's files, of which each connection needs two."""

log = logging.getLogger(__name__)


def share_of(wanted: int, files: int) -> int:
    """Connections that one pod may have, of a proxy that may open so many files."""
    return max(1, min(wanted, files // (2 * _PODS_AT_ODDS)))


class Excess:
    """Which connections are beyond the share of their pod: those that were seen last.

    A share is of those that were taken, and as much of those that the proxies opened, which may stay for a moment longer.
    """

    def __init__(self, share: int) -> None:
        self._share = share
        self._known: set[int] = set()

    def find(self, connections: Iterable[ProxyConnection]) -> list[ProxyConnection]:
        """Of all that there are now, the ones that may not be."""
        ordered = sorted(connections, key=lambda made: made.socket.cookie not in self._known)
        counts, excess, known = Counter[tuple[str, bool]](), list[ProxyConnection](), set[int]()
        for made in ordered:
            whose = made.endpoint, made.is_opened
            counts[whose] += 1
            if counts[whose] > self._share:
                excess.append(made)
            else:
                known.add(made.socket.cookie)
        self._known = known
        return excess


class PodShares:
    """Ends what is beyond `wanted` connections of a pod, or fewer where a proxy may not open as many files.

    It looks while a proxy runs, which `is_needed` says.
    """

    def __init__(self, wanted: int, clock: Clock, is_needed: Callable[[], bool]) -> None:
        self._share = share_of(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        self._excess, self._clock, self._is_needed = Excess(self._share), clock, is_needed
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled, or until it is clear that the kernel ends no sockets."""
        while True:
            began_s, ended = self._clock.monotonic(), dict[str, int]()
            try:
                if self._is_needed():
                    ended = await asyncio.to_thread(self._look)
            except (KernelError, OSError) as exc:
                if exc.errno == errno.EOPNOTSUPP:
                    log.warning("connections of a pod through proxies are not bounded", extra={"error": str(exc)})
                    await asyncio.Event().wait()
                log.warning("connections of proxies cannot be counted", extra={"error": str(exc)})
            self._tell(ended)
            await self._clock.sleep(max(_LOOK_S, _PAUSES * (self._clock.monotonic() - began_s)))

    def _look(self) -> dict[str, int]:
        """How many were ended of each pod."""
        excess = self._excess.find(proxy_connections())
        if excess:
            end_connections(excess)
        return Counter(made.endpoint for made in excess)

    def _tell(self, ended: Mapping[str, int]) -> None:
        now_s = self._clock.monotonic()
        self._told = {pod: told_s for pod, told_s in self._told.items() if now_s - told_s < _TELL_S}
        for pod, count in ended.items():
            if pod not in self._told:
                self._told[pod] = now_s
                log.warning(
                    "a pod has all connections through proxies that one may have: newer ones are ended",
                    extra={"address": pod, "count": count, "limit": self._share},
                )
