# SPDX-License-Identifier: Apache-2.0
"""Actions on headers by Envoy itself: what a server receives of requests whose headers are not as rules name them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction
from agent.proxy.access_log import AccessLog
from agent.proxy_files import ACCESS_LOG
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import EVERY_REQUEST, HeaderAction, HttpRule, HttpRules
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, NodeEnvoy, envoy_of, redirect
from tests.integration.datapath.recorder import Recorder

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
Headers = Mapping[str, str]


@pytest.fixture
def server(clean: Topology) -> Iterator[Recorder]:
    made = Recorder(clean.nodes[0].pods[1])
    yield made
    made.close()


@contextlib.contextmanager
def _rules(mesh: Topology, rules: HttpRules) -> Iterator[NodeEnvoy]:
    redirect(mesh.nodes[0], mesh.nodes[0].pods[0], Direction.EGRESS)
    with envoy_of(mesh.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, rules)}) as envoy:
        yield envoy


def _sent(mesh: Topology, server: Recorder, line: str, *headers: str) -> tuple[int, list[str]]:
    """The code of the answer, and the x- headers of the request as the server got it."""
    client, asked = mesh.nodes[0].pods
    server.received = b""
    with client.connect(asked.address, WEB_PORT, 5) as made:
        made.sendall("\r\n".join((f"{line} HTTP/1.1", "Host: x", *headers, "", "")).encode())
        code = int(made.recv(4096).split()[1])
    lines = server.received.decode().lower().split("\r\n")
    return code, [
        line for line in lines if line.startswith("x-") and not line.startswith(("x-request", "x-env", "x-forw"))
    ]


@pytest.mark.parametrize(
    ("action", "value", "given", "received"),
    [
        ("ADD", "blue", (), ["x-team: blue"]),
        ("ADD", "blue", ("X-Team: blue",), ["x-team: blue"]),
        ("ADD", "blue", ("X-Team: red",), ["x-team: red", "x-team: blue"]),
        ("ADD", "100% %REQ(x)%", (), ["x-team: 100% %req(x)%"]),
        ("ADD", "", (), ["x-team: "]),
        ("ADD", "", ("X-Team: red",), ["x-team: red"]),
        ("REPLACE", "blue", (), ["x-team: blue"]),
        ("REPLACE", "blue", ("X-Team: red", "X-Team: blue"), ["x-team: blue"]),
        ("DELETE", "blue", ("X-Team: red",), []),
        ("DELETE", "blue", ("X-Team: blue",), ["x-team: blue"]),
        ("DELETE", "blue", (), []),
        ("DELETE", "", ("X-Team: red",), ["x-team: red"]),
        ("LOG", "blue", ("X-Team: red",), ["x-team: red"]),
        ("LOG", "blue", (), []),
    ],
)
def test_a_header_that_is_not_as_named_is_made_so(
    clean: Topology, server: Recorder, action: str, value: str, given: tuple[str, ...], received: list[str]
) -> None:
    with _rules(clean, frozenset((HttpRule("GET", actions=(HeaderAction(action, "x-team", value),)),))):
        assert _sent(clean, server, "GET /", *given) == (200, received)
        assert _sent(clean, server, "PUT /", *given)[0] == 403


def test_the_actions_of_each_rule_that_is_about_a_request_are_done(clean: Topology, server: Recorder) -> None:
    add = HeaderAction("ADD", "x-one", "1"), HeaderAction("REPLACE", "x-two", "2")
    rules = (
        HttpRule("GET", "/a.*", actions=add),
        HttpRule(path="/ab", headers=(("x-key", "k"),), actions=(HeaderAction("DELETE", "x-three", "3"),)),
        HttpRule(host="other", headers=(("x-any", None),), actions=(HeaderAction("ADD", "x-four", "4"),)),
    )
    with _rules(clean, frozenset(rules)):
        assert _sent(clean, server, "GET /a") == (200, ["x-one: 1", "x-two: 2"])
        both = _sent(clean, server, "GET /ab", "X-Key: k", "X-Three: x")
        assert both == (200, ["x-key: k", "x-one: 1", "x-two: 2"])
        assert _sent(clean, server, "PUT /ab", "X-Key: k", "X-Three: x") == (200, ["x-key: k"])
        assert _sent(clean, server, "PUT /ab", "X-Key: j", "X-Three: x")[0] == 403
        assert _sent(clean, server, "GET http://other/b", "X-Any: ")[1] == ["x-any: ", "x-four: 4"]
    with _rules(clean, frozenset((EVERY_REQUEST, rules[0]))):
        assert _sent(clean, server, "PUT /") == (200, [])
        assert _sent(clean, server, "GET /a") == (200, ["x-one: 1", "x-two: 2"])


def test_mismatches_are_in_the_log_of_their_request(clean: Topology, server: Recorder) -> None:
    actions = (HeaderAction("LOG", "x-one", "1"), HeaderAction("REPLACE", "x-two", "2"))
    with _rules(clean, frozenset((HttpRule("GET", actions=actions),))) as envoy:
        log = AccessLog(envoy.directory / ACCESS_LOG)
        _sent(clean, server, "GET /", "X-Two: 3")
        _sent(clean, server, "GET /", "X-One: 1", "X-Two: 2")
        found: list[object] = []

        def told() -> bool:
            found.extend(record["mismatches"] for record in log.read())
            return len(found) >= 2

        wait_until(told)
        assert found == [{"x-one": "LOG", "x-two": "REPLACE"}, None]
