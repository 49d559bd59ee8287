# SPDX-License-Identifier: Apache-2.0
"""Envoy's configuration: one listener for each port of the proxy, one cluster that goes where the client wanted to. Pure.

Source: Envoy's API v3. A request is judged by its pseudo headers, of which `:path` has the query string; paths are made
canonical first, so that what is judged is what the server is asked for. Documents are JSON, equal for equal input.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import orjson

from agent.datapath.proxy_marks import PROXY_ADDRESS, ProxyMark
from agent.proxy.envoy_headers import MISMATCHES, header_filters
from agent.proxy.envoy_message import typed
from agent.proxy.envoy_servers import chains, server_filters
from agent.proxy_files import ACCESS_LOG, LISTENERS
from meshpolicy import Direction
from meshpolicy.http_rule import EVERY_REQUEST, HttpRule
from meshpolicy.proxy_ports import Listener

_SOL_SOCKET: Final = 1
_SO_MARK: Final = 36
_SO_KEEPALIVE: Final = 9
_IPPROTO_TCP: Final = 6
_TCP_MAXSEG: Final = 2
_MARKS: Final = {
    Direction.EGRESS: (ProxyMark.EGRESS_REPLY, ProxyMark.EGRESS_UPSTREAM),
    Direction.INGRESS: (ProxyMark.INGRESS_REPLY, ProxyMark.INGRESS_UPSTREAM),
}
ORIGINAL: Final = "original"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HEADER_BYTES: Final = 40
"""Of IPv4 and TCP without options, which a segment's size does not count."""
_CONNECT_S: Final = "5s"
_HEADERS_S: Final = "30s"
_UNUSED_S: Final = "5s"
"""How long a connection to a server is kept for the next request of the same connection of the pod's."""
_NO_BOUND: Final = (1 << 32) - 1
"""Bounds of the cluster would be for all pods of the node together; what bounds a pod is its share of connections."""
_BUFFERED_BYTES: Final = 1 << 16
"""Of each of the two connections that make one of a pod's, before its sender has to wait."""
DENIED: Final = "Access denied\r\n"


def bootstrap(directory: str, mtu: int) -> str:
    """What Envoy is started with: listeners are read from the directory again whenever their file is replaced.

    `mtu`: of what its packets must fit into, the overlay.
    """
    segments = [_option("segments fit the overlay", _IPPROTO_TCP, _TCP_MAXSEG, mtu - _HEADER_BYTES)]
    as_asked = typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        use_downstream_protocol_config={"http2_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": _UNUSED_S},
    )
    unbounded = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _NO_BOUND)
    cluster = {
        "name": ORIGINAL,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": _CONNECT_S,
        "cleanup_interval": "30s",
        "per_connection_buffer_limit_bytes": _BUFFERED_BYTES,
        "circuit_breakers": {"thresholds": [unbounded]},
        # one that others may use too could be one that policy has ended meanwhile, of which nobody is told
        "connection_pool_per_downstream_connection": True,
        "typed_extension_protocol_options": {_HTTP_OPTIONS: as_asked},
        "upstream_bind_config": {"socket_options": segments},
    }
    source = {"path_config_source": {"path": f"{directory}/{LISTENERS}", "watched_directory": {"path": directory}}}
    return orjson.dumps(
        {
            "dynamic_resources": {"lds_config": {**source, "resource_api_version": "V3"}},
            "static_resources": {"clusters": [cluster]},
            "layered_runtime": {
                "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 10000}}]
            },
        },
        option=orjson.OPT_SORT_KEYS,
    ).decode()


def listeners_file(listeners: Mapping[int, Listener], directory: str, mtu: int) -> bytes:
    """The listeners by port, as Envoy reads them."""
    resources = [_listener(port, listeners[port], directory, mtu) for port in sorted(listeners)]
    return orjson.dumps({"resources": resources}, option=orjson.OPT_SORT_KEYS)


def _option(description: str, level: int, name: int, value: int) -> dict[str, Any]:
    return {
        "description": description, "level": level, "name": name, "int_value": value, "state": "STATE_PREBIND",
    }  # fmt: skip


def _listener(port: int, listener: Listener, directory: str, mtu: int) -> dict[str, Any]:
    reply, upstream = _MARKS[listener.direction]
    http = [{"name": "http", "typed_config": _manager(port, listener, directory)}]
    log = partial(_log, port, listener.direction.word, directory)
    return typed(
        "config.listener.v3.Listener",
        name=f"{listener.direction.word}-{port}",
        transparent=True,
        address={"socket_address": {"address": PROXY_ADDRESS, "port_value": port}},
        enable_reuse_port=False,
        socket_options=[
            _option("answers of the proxy", _SOL_SOCKET, _SO_MARK, int(reply)),
            _option("segments fit the overlay", _IPPROTO_TCP, _TCP_MAXSEG, mtu - _HEADER_BYTES),
            _option("clients that went away are noticed", _SOL_SOCKET, _SO_KEEPALIVE, 1),
        ],
        listener_filters=[
            {"name": "where to", "typed_config": typed("extensions.filters.listener.original_dst.v3.OriginalDst")},
            {
                "name": "in whose name",
                "typed_config": typed("extensions.filters.listener.original_src.v3.OriginalSrc", mark=int(upstream)),
            },
            *server_filters(listener),
        ],
        **chains(listener, http, ORIGINAL, log),
        per_connection_buffer_limit_bytes=_BUFFERED_BYTES,
    )


def _manager(port: int, listener: Listener, directory: str) -> dict[str, Any]:
    forbidden = {
        "status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "-"}}}
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": ORIGINAL, "timeout": "0s", "idle_timeout": "0s"}}
    connect = {"match": {"connect_matcher": {}}, "direct_response": {"status": 403}}
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=f"port-{port}",
        codec_type="AUTO",
        use_remote_address=True,
        xff_num_trusted_hops=1,
        skip_xff_append=True,
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        request_headers_timeout=_HEADERS_S,
        stream_idle_timeout="0s",
        http_protocol_options={"allow_absolute_url": True, "accept_http_10": True},
        common_http_protocol_options={"headers_with_underscores_action": "ALLOW"},
        upgrade_configs=[{"upgrade_type": "websocket"}],
        access_log=[{"name": "requests", "typed_config": _access_log(port, listener.direction.word, directory)}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [connect, route]}]},
        http_filters=[
            {
                "name": "policy",
                "typed_config": typed("extensions.filters.http.rbac.v3.RBAC", rules=_rules(listener)),
            },
            *header_filters(listener.rules),
            {
                "name": "router",
                "typed_config": typed("extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
            },
        ],
        local_reply_config={"mappers": [{"filter": forbidden, "body": {"inline_string": DENIED}}]},
    )


def _rules(listener: Listener) -> dict[str, Any]:
    ordered = sorted(listener.rules, key=repr)
    permissions = [{"any": True}] if EVERY_REQUEST in listener.rules else [_permission(rule) for rule in ordered]
    return {"action": "ALLOW", "policies": {"rules": {"permissions": permissions, "principals": [{"any": True}]}}}


def _permission(rule: HttpRule) -> dict[str, Any]:
    parts = ((":method", rule.method), (":path", rule.path), (":authority", rule.host))
    matches = [_header(name, {"string_match": {"safe_regex": {"regex": text}}}) for name, text in parts if text]
    matches += [
        _header(name, {"present_match": True} if value is None else {"string_match": {"exact": value}})
        for name, value in rule.headers
    ]
    return {"and_rules": {"rules": matches}} if matches else {"any": True}


def _header(name: str, match: Mapping[str, Any]) -> dict[str, Any]:
    return {"header": {"name": name, **match}}


def _access_log(port: int, direction: str, directory: str) -> dict[str, Any]:
    fields = {
        "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "scheme": "%REQ(:SCHEME)%", "host": "%REQ(:AUTHORITY)%",
        "protocol": "%PROTOCOL%", "code": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%",
        "request_id": "%REQ(X-REQUEST-ID)%", "mismatches": f"%DYNAMIC_METADATA({MISMATCHES})%",
    }  # fmt: skip
    return _log(port, direction, directory, fields)


def _log(port: int, direction: str, directory: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """A line for each event, with what is said of every connection, and these fields."""
    common = {
        "port": str(port), "direction": direction, "start": "%START_TIME(%s.%6f)%", "duration_ms": "%DURATION%",
        "source": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    }  # fmt: skip
    return typed(
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=f"{directory}/{ACCESS_LOG}",
        log_format={"json_format": {**common, **fields}},
    )
