# SPDX-License-Identifier: Apache-2.0
"""The application part of port rules: checked and kept, for the proxies that will enforce it."""

from __future__ import annotations

import re
from typing import Final

from meshpolicy.decode import DocumentNode
from meshpolicy.dns_name import DnsRules, dns_rule
from meshpolicy.http_rule import HeaderAction, HttpRule, HttpRules, check_expression, parse_header
from meshpolicy.proxy_ports import DNS, HTTP
from meshpolicy.rule import L7Rules

BUILT_IN_KINDS: Final = (HTTP, "kafka", DNS)
_NAME_CHARACTERS: Final = re.compile(r"[-a-zA-Z0-9_.]+")
_PATTERN_CHARACTERS: Final = re.compile(r"[-a-zA-Z0-9_.*]+")
_LONGEST_NAME: Final = 255
_EVERY_NAME: Final = "*"
_RULES_FIELDS: Final = frozenset({*BUILT_IN_KINDS, "l7proto", "l7"})
_HTTP_FIELDS: Final = frozenset({"path", "method", "host", "headers", "headerMatches"})
_HEADER_FIELDS: Final = frozenset({"name", "value", "mismatch", "secret"})
_KAFKA_FIELDS: Final = frozenset({"role", "apiKey", "apiVersion", "clientID", "topic"})
_DNS_FIELDS: Final = frozenset({"matchName", "matchPattern"})
SECRET_FIELDS: Final = frozenset({"namespace", "name"})
_LOG: Final = "LOG"
_MISMATCHES: Final = ("", _LOG, "ADD", "DELETE", "REPLACE")
_OF_THE_MESSAGE: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"}
)
"""Headers that say whom a request is for and where it ends: whoever changed them would change which requests there are."""
_CONTRADICTION: Final = "a mismatch action for a header that the same rule requires"


def parse_l7_rules(node: DocumentNode) -> L7Rules | None:
    """Read `rules` of a port rule; None if it restricts nothing. Raises PolicyError for more than one kind."""
    node.only(_RULES_FIELDS)
    kinds = [kind for kind in BUILT_IN_KINDS if node.get(kind) is not None]
    custom = node.text_of("l7proto")
    if node.get("l7") is not None and not custom:
        node.fail("l7 needs l7proto", "name the protocol in l7proto")
    if custom:
        kinds.append(custom)
    if len(kinds) > 1:
        node.fail(f"{' and '.join(kinds)} in one port rule", "write one port rule for each kind")
    for item in node.list_of(HTTP):
        _check_http(item)
    for item in node.list_of(DNS):
        check_dns_name(item, exclusive=False)
    for item in node.list_of("kafka"):
        item.only(_KAFKA_FIELDS)
    if not kinds:
        return None
    field = node.get("l7" if custom else kinds[0])
    entries = tuple(field.items()) if field else ()
    every_name = kinds[0] == DNS and any(entry.text_of("matchPattern") == _EVERY_NAME for entry in entries)
    return L7Rules(kinds[0], len(entries), "; ".join(_render(entry) for entry in entries), every_name)


def check_dns_name(node: DocumentNode, *, exclusive: bool) -> tuple[str, str]:
    """The matchName and matchPattern of a DNS selector. Raises PolicyError for characters they cannot have."""
    node.only(_DNS_FIELDS)
    name, pattern = node.text_of("matchName"), node.text_of("matchPattern")
    if exclusive and name and pattern:
        node.fail("matchName and matchPattern together", "write two entries if each is meant alone")
    if name and not _NAME_CHARACTERS.fullmatch(name):
        node.child("matchName", name).fail(
            f"{name!r} has characters that a name cannot have", "use matchPattern for wildcards"
        )
    if pattern and not _PATTERN_CHARACTERS.fullmatch(pattern):
        node.child("matchPattern", pattern).fail(
            f"{pattern!r} has characters that a pattern cannot have", 'use letters, digits, "-", "_", "." and "*"'
        )
    for field, text in (("matchName", name), ("matchPattern", pattern)):
        if len(text) > _LONGEST_NAME:
            node.child(f"{field}", text).fail("longer than 255 characters", "shorten it")
    return name, pattern


def _check_http(node: DocumentNode) -> None:
    node.only(_HTTP_FIELDS)
    for field in ("path", "method", "host"):
        text = node.text_of(field)
        if reason := check_expression(text):
            node.child(f"{field}", text).fail(
                f"not a regular expression of RE2 ({reason})", "escape special characters; RE2 has no look-ahead"
            )
    node.texts_of("headers")
    for match in node.list_of("headerMatches"):
        if not match.only(_HEADER_FIELDS).text_of("name"):
            match.fail("a header name is missing", "write name")
        if match.text_of("mismatch") not in _MISMATCHES:
            match.fail("unknown mismatch action", "write LOG, ADD, DELETE or REPLACE")
        secret = match.get("secret")
        if secret is not None and not secret.only(SECRET_FIELDS).text_of("name"):
            secret.fail("a secret name is missing", "write name")


def http_rules(node: DocumentNode) -> tuple[HttpRules, str]:
    """What the checked `rules` allow of HTTP, and what of it no proxy here can do (empty: nothing)."""
    found, missing = set[HttpRule](), ""
    for item in node.list_of(HTTP):
        matched, actions, unmet = _matched_headers(item)
        missing = unmet or missing
        headers = tuple(sorted({*map(parse_header, item.texts_of("headers")), *matched}, key=str))
        if {action.name for action in actions} & {name for name, _ in headers}:
            missing = f"a list of http rules with headerMatches ({_CONTRADICTION})"
        made = HttpRule(item.text_of("method"), item.text_of("path"), item.text_of("host"), headers, tuple(actions))
        found.add(made)
    return frozenset(found), missing


def _matched_headers(node: DocumentNode) -> tuple[list[tuple[str, str | None]], list[HeaderAction], str]:
    """What headerMatches require, as `headers` does, what they change, and what no proxy here can do (empty: nothing)."""
    found, actions, missing = list[tuple[str, str | None]](), list[HeaderAction](), ""
    for match in node.list_of("headerMatches"):
        action, name, value = match.text_of("mismatch"), match.text_of("name").lower(), match.text_of("value")
        if match.get("secret") is not None:
            missing = "a list of http rules with headerMatches (a Secret)"
        elif not action:  # a mismatch drops the request
            found.append((name, value or None))
        elif action != _LOG and (name.startswith(":") or name in _OF_THE_MESSAGE):
            missing = f"a list of http rules with headerMatches ({action} of {name})"
        elif (made := HeaderAction(action, name, value)) not in actions:
            actions.append(made)
    return found, actions, missing


def dns_rules(node: DocumentNode) -> DnsRules:
    """The names that the checked `rules` allow to ask for. An entry that names nothing allows none."""
    return frozenset(dns_rule(item.text_of("matchName"), item.text_of("matchPattern")) for item in node.list_of(DNS))


def _render(node: DocumentNode) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(node.mapping().items()))
