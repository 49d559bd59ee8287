# SPDX-License-Identifier: Apache-2.0
"""What the guard of this node depends on, from settings, Services and nodes as they are now. Reads, never writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.settings import AgentSettings
from agent.tables import AgentDB
from kube.client import in_thread
from meshapi.installed import APISERVER_PORT, STORE_NODE_PORT, STORE_PORT
from meshkit.clock import Clock
from meshmodel.names import ServiceName
from meshpeer.directory import read_directory
from meshpeer.outside import Resolve
from meshpolicy.host_guard import GuardFacts, parse_open_port
from meshpolicy.port import MAXIMUM_PORT

_API_SERVICE = ServiceName("default", "kubernetes")
_HTTPS = 443
_LOOK_S = 5.0
_ENDPOINT = re.compile(rb"https://[^\s/]*:(\d{1,5})\b")


class _Outside(NamedTuple):
    """What neither tables nor settings say: where the agent's API server is, and the ports by which peers are reached."""

    api_servers: tuple[tuple[str, int], ...] = ()
    peer_ports: frozenset[int] = frozenset()


class HostGuard:
    """The facts of the guard; `server` is the URL by which this agent reaches the API server, "" if there is none.

    Raises: ValueError for a setting that is no port.
    """

    def __init__(self, db: AgentDB, settings: AgentSettings, server: str, clock: Clock, resolve: Resolve) -> None:
        self._db, self._settings, self._clock, self._resolve = db, settings, clock, resolve
        self._server = server
        self._seen = self._look(_Outside())
        self._open = tuple(parse_open_port(text) for text in settings.host_policy_open_ports)

    def facts(self) -> GuardFacts:
        """As of now."""
        backends = self._db.backends.get((_API_SERVICE, self._db.own))
        served = tuple((b.address, b.port) for b in (backends.backends if backends is not None else ()))
        servers = tuple(sorted({*served, *self._seen.api_servers}))
        settings = self._settings
        return GuardFacts(
            api_servers=tuple(server for server in servers if ":" not in server[0]),
            is_api_server=any(self._db.is_here(address) for address, _ in servers),
            kubelet_port=settings.kubelet_port,
            vxlan_port=settings.vxlan_port,
            agent_port=settings.port,
            flow_port=settings.flow_port,
            cluster=self._db.own,
            namespace=settings.config_namespace,
            mesh_ports=tuple(
                sorted(
                    {
                        STORE_PORT,
                        STORE_NODE_PORT,
                        APISERVER_PORT,
                        *settings.host_policy_mesh_ports,
                        *self._seen.peer_ports,
                    }
                )
            ),
            mesh_node_ports=(STORE_NODE_PORT, *settings.host_policy_mesh_ports),
            open_ports=self._open,
        )

    async def follow(self, changed: Callable[[], None]) -> None:
        """Until cancelled. What files and the resolver say is asked for in a thread, every few seconds."""
        while True:
            await self._clock.sleep(_LOOK_S)
            seen = await in_thread(self._look, self._seen)
            if seen != self._seen:
                self._seen = seen
                changed()

    def _look(self, before: _Outside) -> _Outside:
        """As of now; where nobody answers, as `before`. Blocks."""
        configs = read_directory(self._settings.clustermesh_config, self._db.own).configs
        found = (int(match) for content in configs.values() for match in _ENDPOINT.findall(content))
        ports = frozenset(port for port in found if 0 < port <= MAXIMUM_PORT)
        return _Outside(self._find_server() or before.api_servers, ports)

    def _find_server(self) -> tuple[tuple[str, int], ...]:
        """Where the API server's URL leads; nowhere if nobody knows. Blocks."""
        parts = urlsplit(self._server)
        addresses = self._resolve(parts.hostname) if parts.hostname else ()
        return tuple((address, parts.port or _HTTPS) for address in addresses)
