# SPDX-License-Identifier: Apache-2.0
"""Names of servers as TLS clients say them (SNI): one name, or a pattern of names. Pure.

Source: the `serverNames` of Cilium's PortRule, as its proxy matches them from 1.20 on. `*` is any number of letters, digits,
`-` and `_` within one label, `**` in place of a label one or more whole labels, `*` alone every name. Case does not matter.
A client that says no name, or that does not begin with TLS, is none of a list of names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import re2

_LABEL: Final = r"(?:\*{1,2}|\*?[-a-z0-9_]+(?:\*[-a-z0-9_]+)*\*?)"
_PATTERN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST: Final = 255
_LETTERS: Final = "[-a-z0-9_]"
_LABELS: Final = rf"{_LETTERS}+(?:[.]{_LETTERS}+)*"
_PARTS: Final = re.compile(r"\*\*|\*|\.|[^*.]+")
_REMEMBERED: Final = 4096


class ServerName(NamedTuple):
    """A name or pattern, in lower case and without a dot at the end: make it with `server_name`.

    Empty: every connection, with TLS or without.
    """

    pattern: str

    @property
    def is_pattern(self) -> bool:
        """Whether it is about more than one name."""
        return "*" in self.pattern

    @property
    def expression(self) -> str:
        """A regular expression of RE2 for the whole of a name in lower case."""
        return _LABELS if self.pattern == "*" else "".join(map(_expression_of, _PARTS.findall(self.pattern)))

    def matches(self, name: str) -> bool:
        """Whether it is about this name, as `server_name` writes it; the empty one: that of a connection without any."""
        return not self.pattern or bool(name and _compiled(self.expression).fullmatch(name) is not None)

    def __str__(self) -> str:
        return f"server name {self.pattern}" if self.pattern else "every connection"


ServerNames = frozenset[ServerName]
"""A connection is allowed that one of them is about."""
EVERY_CONNECTION: Final = ServerName("")


def server_name(text: str) -> ServerName:
    """The name or pattern that a policy writes. Raises ValueError if no server is called so."""
    lowered = text.lower().removesuffix(".")
    if len(text) > _LONGEST or not _PATTERN.fullmatch(lowered):
        raise ValueError(f"{text[:64]!r} is neither a name nor a pattern of names")
    return ServerName(lowered)


def _expression_of(part: str) -> str:
    known = {"**": _LABELS, "*": f"{_LETTERS}*", ".": "[.]"}
    return known.get(part, part)


@lru_cache(maxsize=_REMEMBERED)
def _compiled(expression: str) -> Any:
    return re2.compile(expression)
