# SPDX-License-Identifier: Apache-2.0
"""The agent's last work on a node: nothing of ours is left in its kernel, and readiness says so until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from agent.settings import LOOPBACK
from kube.client import in_thread
from meshkit.clock import Clock
from meshkit.errors import MAXIMUM_TEXT, MeshError
from meshkit.probe_server import serve_probes
from meshkit.supervise import together

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0


class Detachment:
    """Removes everything of ours from this node's kernel, again and again until it worked once."""

    def __init__(self, uninstall: Callable[[], None], clock: Clock) -> None:
        self._uninstall, self._clock = uninstall, clock
        self._problem = "not begun"

    def readiness(self) -> tuple[int, str]:
        """200 once nothing of ours is left, else 503 with the last error."""
        return (503, f"Not detached: {self._problem}") if self._problem else (200, "Detached")

    async def remove(self) -> None:
        """Returns when nothing of ours is left."""
        while True:
            try:
                await in_thread(self._uninstall)
            except (MeshError, OSError) as exc:
                self._problem = str(exc)
                log.warning("not detached, retrying", extra={"error": self._problem[:MAXIMUM_TEXT], "delay_s": RETRY_S})
                await self._clock.sleep(RETRY_S)
            else:
                self._problem = ""
                log.info("nothing of ours is left on this node")
                return

    async def run(self, probe_port: int) -> None:
        """Remove everything; /readyz on the probe port says when nothing is left. Until cancelled."""
        answers = {"/healthz": lambda: (200, "ok"), "/readyz": self.readiness}
        await together({"remove": self.remove(), "probes": serve_probes(LOOPBACK, probe_port, answers)})
