# SPDX-License-Identifier: Apache-2.0
"""Patterns of names and regular expressions, matched in time that grows with the text only. Pure.

Regular expressions are RE2's: none of them can take long, so a client may send what it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import re2

from flows.errors import FilterError

Match = Callable[[str], bool]

LONGEST: Final = 4096
"""Characters of an expression."""
_WITHIN_LABEL: Final = "[-_0-9a-z]*"


def compile_expression(text: str, field: str) -> Match:
    """Whether the expression is found somewhere. Raises: FilterError."""
    if len(text) > LONGEST:
        raise FilterError(field, f"an expression of {len(text)} characters; the limit is {LONGEST}")
    options = re2.Options()
    options.log_errors = False
    try:
        found = re2.compile(text, options)
    except re2.error as exc:
        why = exc.args[0].decode("utf-8", "replace") if exc.args and isinstance(exc.args[0], bytes) else str(exc)
        raise FilterError(field, f"{text[:100]!r} is no RE2 expression: {why}") from exc
    return lambda value: found.search(value) is not None


def compile_name(pattern: str, field: str) -> Match:
    """A DNS name in which `*` stands for anything within one label; case and a trailing dot do not matter."""
    expression = _name_expression(pattern, field)
    match = compile_expression(f"^{expression}$", field)
    return lambda name: match(name.lower().rstrip("."))


def compile_node(pattern: str, field: str) -> Match:
    """A node as `cluster/node`, `cluster/` or `node`, each of them a pattern as of a DNS name."""
    cluster, slash, node = pattern.partition("/") if "/" in pattern else ("", "", pattern)
    clusters = _name_expression(cluster, field) if cluster else "[^/]*"
    nodes = _name_expression(node, field) if node else "[^/]*"
    if not cluster and not node:
        raise FilterError(field, "an empty name of a node")
    match = compile_expression(f"^(?:{clusters})/(?:{nodes})$" if slash else f"^[^/]*/(?:{nodes})$", field)
    return lambda name: match((name if "/" in name else f"default/{name}").lower())


def _name_expression(pattern: str, field: str) -> str:
    name = pattern.lower().rstrip(".")
    if not name:
        raise FilterError(field, "an empty name")
    if bad := sorted({letter for letter in name if not (letter.isascii() and (letter.isalnum() or letter in "-_.*"))}):
        raise FilterError(
            field, f"{pattern[:100]!r} has {' '.join(bad)}; names have letters, digits, '-', '_', '.' and '*'"
        )
    return name.replace(".", "[.]").replace("*", _WITHIN_LABEL)
