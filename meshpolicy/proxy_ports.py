# SPDX-License-Identifier: Apache-2.0
"""Which port of the node's proxy enforces which rules. The ports say nothing by themselves: others make listeners of them.

Equal rules of one direction share a port, and a port that is in use never changes what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from meshpolicy.dns_name import DnsRules
from meshpolicy.http_rule import HttpRules
from meshpolicy.reference import Direction
from meshpolicy.server_name import ServerNames

FIRST_PORT: Final = 14_000
PORTS: Final = 16_000
"""As many as there are; below what kernels choose from and what Kubernetes gives to node ports."""


HTTP: Final = "http"
DNS: Final = "dns"
PROXIED: Final = frozenset({HTTP, DNS})
"""The kinds of rules that there are proxies for."""


class Listener(NamedTuple):
    """What one port of a proxy enforces: rules about requests and about servers' names, or about the names to ask for.

    `servers` are about connections with TLS, `rules` about the others; None and none: no connection of that kind.
    """

    direction: Direction
    rules: HttpRules = frozenset()
    names: DnsRules | None = None
    servers: ServerNames | None = None


class ProxyPorts:
    """Ports by listener. A port keeps its meaning, also while nothing uses it, until all of this is made anew.

    `kinds` of rules have a proxy here. `exhausted`: a listener found no port, so that what it was for stays denied.
    `mixed`: so do ports that rules of two kinds are about; `laden`: so do those whose rules have too many actions on headers.
    """

    def __init__(self, kinds: frozenset[str] = PROXIED) -> None:
        self.kinds = kinds
        self.on_new: Callable[[int, Listener], None] | None = None
        """Called when a port begins to mean something, before any policy entry names it."""
        self._ports: dict[Listener, int] = {}
        self._listeners: dict[int, Listener] = {}
        self._next = FIRST_PORT
        self.exhausted = self.mixed = self.laden = False

    def restore(self, known: Mapping[int, Listener]) -> None:
        """These ports meant this to an earlier agent."""
        for port, listener in known.items():
            if port not in self._listeners and listener not in self._ports:
                self._ports[listener], self._listeners[port] = port, listener

    def port(self, listener: Listener) -> int:
        """The port of this listener, a free one if it has none; 0 if there is none left."""
        known = self._ports.get(listener)
        if known is not None:
            return known
        while self._next in self._listeners:
            self._next += 1
        if self._next >= FIRST_PORT + PORTS:
            self.exhausted = True
            return 0
        port = self._next
        self._ports[listener], self._listeners[port] = port, listener
        if self.on_new is not None:
            self.on_new(port, listener)
        return port

    def listener(self, port: int) -> Listener | None:
        """What the port enforces; None if it means nothing."""
        return self._listeners.get(port)
