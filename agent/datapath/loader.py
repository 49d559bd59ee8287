# SPDX-License-Identifier: Apache-2.0
"""Programs, maps and attachments of one node."""

from __future__ import annotations

from agent.datapath.config import NodeConfig
from agent.datapath.events import EventRing
from agent.datapath.maps import Maps


class Datapath:
    """The kernel side of one node. Everything stays pinned when the process ends; traffic does not notice."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config

    def open(self) -> Maps:
        """Load programs, take over or create pinned maps, bring up the overlay device. Idempotent.

        Raises: DatapathError (permanent: the kernel refuses the programs; transient: a device or map call failed).
        """
        raise NotImplementedError

    def attach(self, ifindex: int) -> None:
        """The endpoint's interface runs this object's programs; write the endpoint maps first. Idempotent."""
        raise NotImplementedError

    def detach(self, ifindex: int) -> None:
        """The interface runs none of our programs; absent is fine."""
        raise NotImplementedError

    def attached(self) -> set[int]:
        """Interfaces that run our programs now, also those a former process attached."""
        raise NotImplementedError

    def event_ring(self) -> EventRing:
        """A reader of this node's events; one at a time."""
        raise NotImplementedError

    def uninstall(self) -> None:
        """Nothing of ours is left: programs, links, maps, pins, overlay device."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back file descriptors; nothing else changes."""
        raise NotImplementedError
