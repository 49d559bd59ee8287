# SPDX-License-Identifier: Apache-2.0
"""From a connection file to a store client: names of Kubernetes Services become their cluster addresses, without DNS."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from kvstore.clientconfig import ClientConfig, parse_client_config
from kvstore.errors import Rejected
from kvstore.options import Options, Tls
from kvstore.store import Store
from meshkit.clock import Clock, SystemClock
from meshpeer.outside import Dial
from meshpeer.refusal_cause import find_cause, find_end

Resolve = Callable[[str, str], Awaitable[str | None]]


class StoreConnector:
    """Makes a client for the content of a connection file. `resolve` looks a Service (name, namespace) up."""

    def __init__(
        self,
        directory: Path,
        resolve: Resolve | None = None,
        options: Options | None = None,
        dial: Dial = ClientConfig.connect,
        clock: Clock | None = None,
    ) -> None:
        self._directory, self._resolve, self._options, self._dial = directory, resolve, options, dial
        self._clock: Clock = clock or SystemClock()

    async def __call__(self, content: bytes) -> Store:
        """Raises: Rejected if the file or one of its certificates cannot be used."""
        config = parse_client_config(content, self._directory)
        addresses = await self._addresses(config)
        return self._dial(config, self._options, addresses.get)

    async def explain(self, content: bytes) -> str:
        """Why the certificates of both sides prevent a connection; empty if they do not, or the file cannot be used."""
        found = await self._server(content)
        return await find_cause(*found, self._clock.wall()) if found is not None else ""

    async def certificate_end(self, content: bytes) -> float:
        """When the certificate that the store shows ends, wall seconds; 0 for a store without one, or that does not answer."""
        found = await self._server(content)
        return await find_end(*found) if found is not None else 0.0

    async def _server(self, content: bytes) -> tuple[str, int, str, Tls] | None:
        """Address, port and name of a store with TLS, and what it is asked with."""
        try:
            config = parse_client_config(content, self._directory)
            endpoint, tls = config.endpoints[0], config.tls(None)
        except Rejected:
            return None
        if tls is None:
            return None
        known = await self._addresses(config)
        addresses = config.host_aliases.get(endpoint.host) or (known.get(endpoint.host, endpoint.host),)
        return addresses[0], endpoint.port, endpoint.host, tls

    async def _addresses(self, config: ClientConfig) -> dict[str, str]:
        found: dict[str, str] = {}
        for endpoint in config.endpoints:
            service = service_of(endpoint.host)
            if service is None or endpoint.host in config.host_aliases or self._resolve is None:
                continue
            address = await self._resolve(*service)
            if address:
                found[endpoint.host] = address
        return found


def service_of(host: str) -> tuple[str, str] | None:
    """Name and namespace that a host names as `<name>.<namespace>.svc[.domain]`; None for any other name."""
    parts = host.split(".")
    if len(parts) >= 3 and parts[2] == "svc" and all(parts[:2]):
        return parts[0], parts[1]
    return None


def own_store_config(endpoint: str, certificates: Path) -> bytes:
    """The connection file of the own cluster's store, in the form peers' files have."""
    document: dict[str, object] = {"endpoints": [endpoint]}
    if endpoint.startswith("https://"):
        document["trusted-ca-file"] = str(certificates / "ca.crt")
        document["cert-file"] = str(certificates / "tls.crt")
        document["key-file"] = str(certificates / "tls.key")
    return json.dumps(document).encode()  # JSON is YAML
