# SPDX-License-Identifier: Apache-2.0
"""What is asked over a connection that a proxy looks into: an HTTP request, or a question for a DNS name. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from meshpolicy.dns_name import allows_name, canonical
from meshpolicy.http_rule import HttpRequest, allows_request, parse_request
from meshpolicy.proxy_ports import Listener

_NAME: Final = re.compile(r"[-_0-9a-zA-Z]+(\.[-_0-9a-zA-Z]+)*\.?|\.")
_LONGEST_NAME: Final = 253


class DnsQuestion(NamedTuple):
    """`name` is canonical."""

    name: str

    def __str__(self) -> str:
        return f"the name {self.name}"


Asked = HttpRequest | DnsQuestion


def parse_name(text: str) -> DnsQuestion:
    """A DNS name as people type it. Raises ValueError."""
    if not _NAME.fullmatch(text) or len(text) > _LONGEST_NAME:
        raise ValueError(f"{text[:64]!r} is no DNS name: write for instance google.com")
    return DnsQuestion(canonical(text))


def parse_asked(text: str) -> Asked:
    """A request such as `GET /path`, or a DNS name. Raises ValueError."""
    return parse_request(text) if " " in text.strip() or "/" in text else parse_name(text.strip())


def lets_through(listener: Listener | None, asked: Asked) -> bool:
    """Whether the proxy at a port with these rules lets it through; what is not of its kind it does not."""
    if listener is None:
        return False
    if isinstance(asked, DnsQuestion):
        return listener.names is not None and allows_name(listener.names, asked.name)
    return listener.names is None and allows_request(listener.rules, asked)


def rules_text(listener: Listener) -> str:
    """What the port allows, as people read it."""
    rules = sorted(map(str, listener.rules if listener.names is None else listener.names))
    return "; ".join(rules)
