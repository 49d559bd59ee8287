# SPDX-License-Identifier: Apache-2.0
"""What agent and proxies of a node share: files and sockets in one directory of the node. Pure.

The agent writes what the proxies shall do; whoever keeps them running writes what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

BOOTSTRAP: Final = "bootstrap.json"
"""What Envoy is started with. Envoy runs while it is there."""
LISTENERS: Final = "listeners.json"
"""Which ports Envoy listens on, and by which rules."""
ACCESS_LOG: Final = "access.log"
"""The requests that Envoy saw."""
ENVOY_LOG: Final = "envoy.log"
"""What Envoy says of itself."""
RULES: Final = "rules.json"
"""Which names may be asked for at which port. The DNS proxy runs while it is there."""


class ProxyFiles(NamedTuple):
    """`base`: the directory, which another pod of the node has at the same place."""

    base: Path

    @property
    def envoy(self) -> Path:
        """The directory of Envoy."""
        return self.base / "proxy"

    @property
    def dns(self) -> Path:
        """The directory of the DNS proxy."""
        return self.base / "dns"

    @property
    def states(self) -> Path:
        """The socket at which the proxies' states are told."""
        return self.base / "proxies.sock"
