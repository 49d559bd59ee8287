# SPDX-License-Identifier: Apache-2.0
"""Rules about servers' names: which of a listener's filter chains takes a connection, by how it begins. Pure.

A connection that no rule allows is closed before the server hears of it. TLS is not opened: what is inside goes on as it came.
Source: Envoy's TLS inspector and its matching API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent.proxy.envoy_message import typed
from meshpolicy.proxy_ports import Listener
from meshpolicy.server_name import EVERY_CONNECTION, ServerName

ALLOWED: Final = "allowed"
DENIED: Final = "denied"
"""The verdicts of lines about connections."""
_HTTP: Final = "http"
_NOBODY: Final = "nobody"
"""A cluster that there is not."""
_NAME: Final = "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"
_TRANSPORT: Final = "envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput"

Log = Callable[[Mapping[str, str]], dict[str, Any]]


def server_filters(listener: Listener) -> list[dict[str, Any]]:
    """What reads the beginning of a connection; nothing where all of them go the same way, so that servers may speak first."""
    if listener.servers is None or (EVERY_CONNECTION in listener.servers and not listener.rules):
        return []
    inspector = typed("extensions.filters.listener.tls_inspector.v3.TlsInspector")
    return [{"name": "which server", "typed_config": inspector}]


def chains(listener: Listener, http: Sequence[Mapping[str, Any]], cluster: str, log: Log) -> dict[str, Any]:
    """The filter chains of the listener and how one is chosen: `http` for requests, straight on to `cluster`, or closed."""
    if listener.servers is None:
        return {"filter_chains": [{"filters": http}]}
    passing = {"name": ALLOWED, "filters": [_straight_on(cluster, log, ALLOWED)]}
    if EVERY_CONNECTION in listener.servers and not listener.rules:
        return {"filter_chains": [passing]}
    closing = {"name": DENIED, "filters": [_straight_on(_NOBODY, log, DENIED)]}
    made = [passing, closing, *([{"name": _HTTP, "filters": http}] if listener.rules else [])]
    return {"filter_chains": made, "filter_chain_matcher": _choice(listener)}


def _choice(listener: Listener) -> dict[str, Any]:
    assert listener.servers is not None
    is_tls = _single(_TRANSPORT, {"exact": "tls"})
    if EVERY_CONNECTION in listener.servers:
        found = [_matcher(is_tls, ALLOWED)]
    else:
        named = [_single(_NAME, _text_match(server)) for server in sorted(listener.servers)]
        either = named[0] if len(named) == 1 else {"or_matcher": {"predicate": named}}
        found = [_matcher({"and_matcher": {"predicate": [is_tls, either]}}, ALLOWED), _matcher(is_tls, DENIED)]
    return {"matcher_list": {"matchers": found}, "on_no_match": _on_match(_HTTP if listener.rules else DENIED)}


def _text_match(server: ServerName) -> dict[str, Any]:
    if not server.is_pattern:
        return {"exact": server.pattern, "ignore_case": True}
    return {"safe_regex": {"google_re2": {}, "regex": f"(?i){server.expression}"}}


def _single(kind: str, match: Mapping[str, Any]) -> dict[str, Any]:
    given = {"name": kind, "typed_config": {"@type": f"type.googleapis.com/{kind}"}}
    return {"single_predicate": {"input": given, "value_match": match}}


def _matcher(predicate: Mapping[str, Any], chain: str) -> dict[str, Any]:
    return {"predicate": predicate, "on_match": _on_match(chain)}


def _on_match(chain: str) -> dict[str, Any]:
    name = {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": chain}
    return {"action": {"name": chain, "typed_config": name}}


def _straight_on(cluster: str, log: Log, verdict: str) -> dict[str, Any]:
    fields = {"server_name": "%REQUESTED_SERVER_NAME%", "verdict": verdict, "event": "%ACCESS_LOG_TYPE%"}
    proxy = typed(
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=verdict,
        cluster=cluster,
        idle_timeout="0s",
        access_log=[{"name": "connections", "typed_config": log(fields)}],
        access_log_options={"flush_access_log_on_connected": True},
    )
    return {"name": "straight on", "typed_config": proxy}
