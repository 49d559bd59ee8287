# SPDX-License-Identifier: Apache-2.0
"""What the guard of this node depends on, from settings, Services and nodes as they are now. Reads, never writes."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from agent.settings import AgentSettings
from agent.tables import AgentDB
from meshapi.installed import APISERVER_PORT, STORE_NODE_PORT, STORE_PORT
from meshkit.clock import Clock
from meshmodel.names import ServiceName
from meshpeer.directory import read_directory
from meshpolicy.host_guard import GuardFacts, parse_open_port
from meshpolicy.port import MAXIMUM_PORT

_API_SERVICE = ServiceName("default", "kubernetes")
_HTTPS = 443
_PEERS_S = 5.0
_ENDPOINT = re.compile(rb"https://[^\s/]*:(\d{1,5})\b")


class HostGuard:
    """The facts of the guard; `server` is the URL by which this agent reaches the API server, "" if there is none.

    Raises: ValueError for a setting that is no port.
    """

    def __init__(self, db: AgentDB, settings: AgentSettings, server: str, clock: Clock) -> None:
        self._db, self._settings, self._clock = db, settings, clock
        self._peer_ports: frozenset[int] = frozenset()
        self._read_at_s = -_PEERS_S
        self._asked = tuple(_addresses_of(server))
        self._open = tuple(parse_open_port(text) for text in settings.host_policy_open_ports)

    def facts(self) -> GuardFacts:
        """As of now."""
        backends = self._db.backends.get((_API_SERVICE, self._db.own))
        served = tuple((b.address, b.port) for b in (backends.backends if backends is not None else ()))
        servers = tuple(sorted({*served, *self._asked}))
        settings = self._settings
        return GuardFacts(
            api_servers=tuple(server for server in servers if ":" not in server[0]),
            is_api_server=any(self._db.is_here(address) for address, _ in servers),
            kubelet_port=settings.kubelet_port,
            vxlan_port=settings.vxlan_port,
            agent_port=settings.port,
            cluster=self._db.own,
            namespace=settings.config_namespace,
            mesh_ports=tuple(
                sorted(
                    {
                        STORE_PORT,
                        STORE_NODE_PORT,
                        APISERVER_PORT,
                        *settings.host_policy_mesh_ports,
                        *self._ports_of_peers(),
                    }
                )
            ),
            mesh_node_ports=(STORE_NODE_PORT, *settings.host_policy_mesh_ports),
            open_ports=self._open,
        )

    def _ports_of_peers(self) -> frozenset[int]:
        """The ports in the peers' connection files, as they were a few seconds ago at most."""
        now_s = self._clock.monotonic()
        if now_s - self._read_at_s >= _PEERS_S:
            self._read_at_s = now_s
            configs = read_directory(self._settings.clustermesh_config, self._db.own).configs
            found = (match for content in configs.values() for match in _ENDPOINT.findall(content))
            self._peer_ports = frozenset(port for match in found if 0 < (port := int(match)) <= MAXIMUM_PORT)
        return self._peer_ports


def _addresses_of(server: str) -> Iterator[tuple[str, int]]:
    """Where a URL leads, as the node's resolver says at the start; nowhere if it does not know."""
    parts = urlsplit(server)
    if not parts.hostname:
        return
    port = parts.port or _HTTPS
    try:
        found: Sequence[tuple[object, ...]] = socket.getaddrinfo(
            parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM
        )
    except OSError:
        return
    for entry in found:
        address = entry[4]
        if isinstance(address, tuple):
            yield str(address[0]), port
