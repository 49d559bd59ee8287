# SPDX-License-Identifier: Apache-2.0
"""Which rules the ports of the proxy have, kept for the next agent, and which of the ports somebody listens on."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from agent.datapath.proxy_marks import PROXY_ADDRESS
from meshkit.atomic import write_atomic
from meshpolicy import Direction
from meshpolicy.http_rule import HeaderAction, HttpRule
from meshpolicy.proxy_ports import Listener
from meshpolicy.server_name import ServerName

_SOCKETS: Final = Path("/proc/thread-self/net/tcp")
_LISTEN: Final = "0A"
"""Of the fourth column. Source: Documentation/networking/proc_net_tcp.rst of the kernel."""


def listening_ports() -> set[int]:
    """The TCP ports of the proxy's address that are listened on in this network namespace."""
    address = f"{int.from_bytes(socket.inet_aton(PROXY_ADDRESS), 'little'):08X}"
    lines = (line.split() for line in _SOCKETS.read_text().splitlines()[1:])
    return {int(fields[1][9:], 16) for fields in lines if fields[3] == _LISTEN and fields[1][:8] == address}


def write_ports(path: Path, listeners: Mapping[int, Listener]) -> None:
    """What each port means, for `read_ports`. Raises: OSError."""
    rows = [
        [port, int(made.direction), [_fields(rule) for rule in sorted(made.rules, key=repr)], _servers_of(made)]
        for port, made in sorted(listeners.items())
    ]
    write_atomic(path, orjson.dumps(rows))


def read_ports(path: Path) -> dict[int, Listener]:
    """What was written last; nothing if that is no longer to be read, so that ports are given anew."""
    try:
        return {port: _listener(*fields) for port, *fields in _rows(path)}
    except (OSError, ValueError, TypeError):
        return {}


def _rows(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def _fields(rule: HttpRule) -> list[Any]:
    return [rule.method, rule.path, rule.host, rule.headers, [tuple(action) for action in rule.actions]]


def _servers_of(listener: Listener) -> list[str] | None:
    return None if listener.servers is None else sorted(server.pattern for server in listener.servers)


def _listener(side: Any, rules: Any, servers: Any = None) -> Listener:
    """Earlier agents had no server names."""
    known = None if servers is None else frozenset(ServerName(str(pattern)) for pattern in servers)
    return Listener(Direction(side), frozenset(map(_rule, rules)), servers=known)


def _rule(fields: Any) -> HttpRule:
    method, path, host, headers, *rest = fields  # earlier agents had no actions
    actions = (HeaderAction(*map(str, action)) for written in rest for action in written)
    return HttpRule(method, path, host, tuple((name, value) for name, value in headers), tuple(actions))
