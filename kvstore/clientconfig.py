# SPDX-License-Identifier: Apache-2.0
"""A peer's connection file: standard etcd client YAML with Cilium's host aliases."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kvstore.errors import Rejected
from kvstore.etcd import EtcdStore
from kvstore.options import Options, Tls
from meshkit.yamltext import load_documents

MARKER: Final = b"endpoints:"
DEFAULT_PORT: Final = 2379
READS: Final = 3
MAX_FILE_BYTES: Final = 1 << 20

Resolver = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class StoreEndpoint:
    """One URL of the file, taken apart."""

    host: str
    port: int
    is_tls: bool


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a connection file says; certificate files are named, not read, so that each connect reads them anew."""

    endpoints: tuple[StoreEndpoint, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    host_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(
        self, resolve: Resolver | None = None, rng: random.Random | None = None
    ) -> tuple[list[str], str | None]:
        """Where to connect, shuffled, and the name the server must prove.

        A host alias wins, then `resolve` (for names of Kubernetes Services), then the name itself goes to DNS.
        """
        endpoints = list(self.endpoints)
        (rng or random.Random()).shuffle(endpoints)
        targets: list[str] = []
        for endpoint in endpoints:
            addresses: Sequence[str] = self.host_aliases.get(endpoint.host, ())
            if not addresses:
                resolved = resolve(endpoint.host) if resolve is not None else None
                addresses = (resolved or endpoint.host,)
            targets += [_join(address, endpoint.port) for address in addresses]
        return targets, endpoints[0].host

    def tls(self, server_name: str | None) -> Tls | None:
        """The certificates, read now; None for plain endpoints.

        Raises: Rejected naming the file that cannot be read.
        """
        if not self.endpoints[0].is_tls:
            return None
        before, found = None, self._read(server_name)
        for _ in range(READS):  # files that are replaced between two reads do not fit each other
            if found == before:
                break
            before, found = found, self._read(server_name)
        return found

    def _read(self, server_name: str | None) -> Tls:
        return Tls(_read(self.ca_file), _read(self.cert_file), _read(self.key_file), server_name)

    def connect(self, options: Options | None = None, resolve: Resolver | None = None) -> EtcdStore:
        """A client of these endpoints; the first call makes the connection, and each new one reads the certificates anew.

        Raises: Rejected if a certificate file cannot be read.
        """
        targets, server_name = self.targets(resolve)
        return EtcdStore(targets, self.tls(server_name), options, read_tls=lambda: self.tls(server_name))


def is_client_config(content: bytes) -> bool:
    """True if a file in the configuration directory describes a peer; everything else there is ignored."""
    return MARKER in content


def parse_client_config(content: bytes, base: Path | None = None) -> ClientConfig:
    """What a connection file says; relative file names are taken from `base`.

    Raises: Rejected naming the first thing that is wrong.
    """
    document = _load(content)
    endpoints = tuple(_endpoint(url) for url in _texts(document.get("endpoints"), "endpoints"))
    if not endpoints:
        raise Rejected("endpoints is empty")
    if len({endpoint.is_tls for endpoint in endpoints}) != 1:
        raise Rejected("endpoints mix http and https")
    ca, cert, key = (_file(document, name, base) for name in ("trusted-ca-file", "cert-file", "key-file"))
    if endpoints[0].is_tls and not (ca and cert and key):
        raise Rejected("https endpoints need trusted-ca-file, cert-file and key-file")
    return ClientConfig(endpoints, ca, cert, key, _aliases(document.get("cilium-host-aliases")))


def _load(content: bytes) -> Mapping[str, object]:
    if len(content) > MAX_FILE_BYTES:
        raise Rejected("file is larger than 1 MiB")
    try:
        documents = list(load_documents(content.decode()))
    except ValueError as exc:
        raise Rejected(f"not YAML: {exc}") from exc
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise Rejected("not a YAML mapping")
    return documents[0]


def _endpoint(url: str) -> StoreEndpoint:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as exc:
        raise Rejected(f"endpoint {url[:100]!r} has no usable port") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise Rejected(f"endpoint {url[:100]!r} is not http(s)://host:port")
    return StoreEndpoint(parts.hostname, port, parts.scheme == "https")


def _aliases(found: object) -> Mapping[str, tuple[str, ...]]:
    if found is None:
        return {}
    if not isinstance(found, list):
        raise Rejected("cilium-host-aliases is not a list")
    aliases: dict[str, tuple[str, ...]] = {}
    for item in found:
        if not isinstance(item, dict):
            raise Rejected("cilium-host-aliases has an entry that is not a mapping")
        hostname, addresses = item.get("hostname"), _texts(item.get("ips"), "ips of a host alias")
        if not isinstance(hostname, str) or not hostname:
            raise Rejected("cilium-host-aliases has an entry without hostname")
        if not addresses:
            raise Rejected(f"host alias {hostname!r} has no ips")
        if hostname in aliases:
            raise Rejected(f"host alias {hostname!r} is given twice")
        aliases[hostname] = tuple(addresses)
    return aliases


def _texts(found: object, what: str) -> list[str]:
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise Rejected(f"{what} is not a list of texts")
    return found


def _file(document: Mapping[str, object], name: str, base: Path | None) -> str:
    found = document.get(name, "")
    if not isinstance(found, str):
        raise Rejected(f"{name} is not a text")
    return str(base / found) if base is not None and found else found


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise Rejected(f"{path}: {exc.strerror or 'cannot be read'}") from exc


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
