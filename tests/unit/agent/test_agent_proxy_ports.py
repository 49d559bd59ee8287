# SPDX-License-Identifier: Apache-2.0
"""What an agent leaves of its proxy for the next one, and which ports policies name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.proxied_endpoints import ports_in_use
from agent.proxy.listening import read_ports, write_ports
from agent.tables import Endpoint, EndpointVerdicts
from meshpolicy import Direction
from meshpolicy.http_rule import HeaderAction, HttpRule
from meshpolicy.proxy_ports import DNS, FIRST_PORT, HTTP, Listener, ProxyPorts
from meshpolicy.server_name import EVERY_CONNECTION, server_name
from tests.unit.meshpolicy.policy_world import SERVER, build, policy, port

RULES = frozenset(
    (HttpRule("GET", "/a", "h", (("x-one", None), ("x-two", "b")), (HeaderAction("ADD", "x", "1"),)), HttpRule())
)


def test_the_next_agent_gives_ports_the_same_meaning(tmp_path: Path) -> None:
    listeners = {FIRST_PORT: Listener(Direction.EGRESS, RULES), FIRST_PORT + 7: Listener(Direction.INGRESS, RULES)}
    listeners[FIRST_PORT + 8] = Listener(
        Direction.INGRESS, servers=frozenset((server_name("*.a.io"), EVERY_CONNECTION))
    )
    write_ports(tmp_path / "ports", listeners)
    assert read_ports(tmp_path / "ports") == listeners


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"[[1, 7, []]]", b'[[1, 0, [["GET"]]]]'])
def test_ports_that_cannot_be_read_are_given_anew(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ports").write_bytes(content)
    assert read_ports(tmp_path / "ports") == {}


def test_what_an_agent_left_that_knew_no_server_names_is_read(tmp_path: Path) -> None:
    (tmp_path / "ports").write_bytes(b'[[14000, 0, [["GET", "", "", []]]]]')
    assert read_ports(tmp_path / "ports") == {14000: Listener(Direction(0), frozenset((HttpRule("GET"),)))}


def test_the_ports_that_policies_name_are_in_use() -> None:
    ports = ProxyPorts()
    engine = build(proxy_ports=ports)
    engine.set_policy(policy(engine, ingress=[{"toPorts": port("80", rules={"http": [{"method": "GET"}]})}]))
    endpoint = Endpoint("10.1.0.5", 7, 9, "", "", int(SERVER), "default", "server")
    row = EndpointVerdicts(endpoint, engine.endpoint_policy(SERVER))
    assert ports_in_use([row], ports, HTTP) == {FIRST_PORT: {"10.1.0.5"}}
    assert ports_in_use([row], ports, DNS) == {}
