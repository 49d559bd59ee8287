# SPDX-License-Identifier: Apache-2.0
"""HTTP rules of a port: which requests they allow, as the proxy that enforces them sees a request. Pure.

Method, path and host are regular expressions of RE2 for the whole of what they are matched with; the path has the query
string. An expression is matched in time that grows with the text only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import re2

_REMEMBERED: Final = 4096
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class HttpRequest(NamedTuple):
    """A request. `path` with its query string; names of headers in lower case."""

    method: str
    path: str
    host: str = ""
    headers: Mapping[str, str] = _NO_HEADERS

    def __str__(self) -> str:
        return f"{self.method} {f'http://{self.host}' if self.host else ''}{self.path}"


class HeaderAction(NamedTuple):
    """What becomes of an allowed request whose header is not `value` (empty: that has no such header): it is noted, and changed.

    `action`: LOG (nothing else), ADD a value, DELETE the header, or REPLACE all its values. `name` is in lower case.
    """

    action: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.action} header {self.name}" + (f": {self.value}" if self.value else "")


class HttpRule(NamedTuple):
    """One entry of a list of HTTP rules: all that it names must match. An empty expression names nothing.

    `headers`: (name in lower case, value; None: whatever it is). `actions` say nothing about what is allowed.
    """

    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[tuple[str, str | None], ...] = ()
    actions: tuple[HeaderAction, ...] = ()

    def allows(self, request: HttpRequest) -> bool:
        """Whether the rule is about this request."""
        parts = ((self.method, request.method), (self.path, request.path), (self.host, request.host))
        if not all(_expression(text).fullmatch(value) is not None for text, value in parts if text):
            return False
        return all(name in request.headers and value in (None, request.headers[name]) for name, value in self.headers)

    def __str__(self) -> str:
        named = zip(("method", "path", "host"), self[:3], strict=True)
        headers = (f"header {name}" + ("" if value is None else f": {value}") for name, value in self.headers)
        words = [*(f"{word} {text}" for word, text in named if text), *headers]
        return " ".join([*(words or ["every request"]), *map(str, self.actions)])


HttpRules = frozenset[HttpRule]
"""A request is allowed that one of the rules allows."""
EVERY_REQUEST: Final = HttpRule()


def allows_request(rules: Iterable[HttpRule], request: HttpRequest) -> bool:
    """Whether one of the rules is about the request."""
    return any(rule.allows(request) for rule in rules)


def check_expression(text: str) -> str:
    """Why RE2 does not take the expression; empty if it does."""
    try:
        _expression(text)
    except re2.error as exc:
        reason = exc.args[0] if exc.args else ""
        return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    return ""


def parse_header(text: str) -> tuple[str, str | None]:
    """A required header as policies write it: its name, or `Name: value`. Source: Cilium's PortRuleHTTP.headers."""
    name, space, value = text.partition(" ")
    return name.removesuffix(":").lower(), value if space else None


def parse_request(text: str) -> HttpRequest:
    """A request as people type it: `GET /path`, or `GET http://host/path`. Raises ValueError."""
    method, space, target = text.strip().partition(" ")
    target = target.strip()
    scheme, separator, rest = target.partition("://")
    host = ""
    if separator and scheme in ("http", "https"):
        host, slash, path = rest.partition("/")
        target = slash + path or "/"
    if not space or not method.isalpha() or not target.startswith("/") or " " in target:
        raise ValueError(f'{text!r} is no request: write for instance "GET /path" or "GET http://host/path"')
    return HttpRequest(method, target, host)


@lru_cache(maxsize=_REMEMBERED)
def _expression(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(text, options)
