# SPDX-License-Identifier: Apache-2.0
"""Which backends the load balancer wants of one object, whoever wrote it. Pure.

A few kilobytes of addresses and ports may mean millions of backends: no more are made than show that there are too many.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from agent.settings import AgentSettings
from agent.tables import Backend

NAMED: Final = 3


class WantedBackends(NamedTuple):
    """Also those of IPv6, and how many of one cluster for one service."""

    is_dual: bool = False
    most: int = AgentSettings.service_backends_max

    def first(self, backends: Iterable[Backend]) -> tuple[Backend, ...]:
        """As many as are kept, and those beyond that are named."""
        return tuple(islice(backends, self.most + NAMED))


ALL_IPV4: Final = WantedBackends()
