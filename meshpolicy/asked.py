# SPDX-License-Identifier: Apache-2.0
"""What is asked over a connection that a proxy looks into: an HTTP request, a question for a DNS name, or TLS of a name. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from meshpolicy.dns_name import allows_name, canonical
from meshpolicy.http_rule import HttpRequest, allows_request, parse_request
from meshpolicy.proxy_ports import Listener
from meshpolicy.server_name import EVERY_CONNECTION

_NAME: Final = re.compile(r"[-_0-9a-zA-Z]+(\.[-_0-9a-zA-Z]+)*\.?|\.")
_LONGEST_NAME: Final = 253
_TLS: Final = "tls://"


class DnsQuestion(NamedTuple):
    """`name` is canonical."""

    name: str

    def __str__(self) -> str:
        return f"the name {self.name}"


class TlsHello(NamedTuple):
    """How a client begins TLS; `server` is in lower case, empty if it says no name."""

    server: str

    def __str__(self) -> str:
        return f"TLS for {self.server}" if self.server else "TLS without a server name"


Asked = HttpRequest | DnsQuestion | TlsHello


def parse_name(text: str) -> DnsQuestion:
    """A DNS name as people type it. Raises ValueError."""
    if not _NAME.fullmatch(text) or len(text) > _LONGEST_NAME:
        raise ValueError(f"{text[:64]!r} is no DNS name: write for instance google.com")
    return DnsQuestion(canonical(text))


def parse_hello(text: str) -> TlsHello:
    """The name of a server as people type it. Raises ValueError."""
    if not _NAME.fullmatch(text) or len(text) > _LONGEST_NAME:
        raise ValueError(f"{text[:64]!r} is no server name: write for instance google.com")
    return TlsHello(text.lower().rstrip("."))


def parse_asked(text: str) -> Asked:
    """A request such as `GET /path`, a server's name as `tls://NAME`, or a DNS name. Raises ValueError."""
    if text.strip().startswith(_TLS):
        return parse_hello(text.strip().removeprefix(_TLS))
    return parse_request(text) if " " in text.strip() or "/" in text else parse_name(text.strip())


def lets_through(listener: Listener | None, asked: Asked) -> bool:
    """Whether the proxy at a port with these rules lets it through; what is not of its kind it does not."""
    if listener is None:
        return False
    if isinstance(asked, DnsQuestion):
        return listener.names is not None and allows_name(listener.names, asked.name)
    if listener.names is not None:
        return False
    servers = listener.servers or frozenset()
    if isinstance(asked, TlsHello):
        return any(server.matches(asked.server) for server in servers)
    return allows_request(listener.rules, asked) or (not listener.rules and EVERY_CONNECTION in servers)


def rules_text(listener: Listener) -> str:
    """What the port allows, as people read it."""
    rules = (*(listener.names or ()), *listener.rules, *(listener.servers or ()))
    return "; ".join(sorted(map(str, rules)))
