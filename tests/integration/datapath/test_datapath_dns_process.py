# SPDX-License-Identifier: Apache-2.0
"""What pods can ask for while the agent is away, and when the DNS proxy itself ends or stands still."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import EventType
from agent.datapath.reasons import Reason
from agent.dns.message import REFUSED
from tests.integration.datapath.datapath_topology import Node, Pod, Topology, drain_events
from tests.integration.datapath.dns_node import (
    DnsNode,
    addresses_in,
    ask_for,
    is_answered,
    redirect,
    served,
    wait_until,
)
from tests.support.leftovers import own_name

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]


def _place(mesh: Topology) -> tuple[Pod, Node, Pod]:
    node = mesh.nodes[0]
    return node.pods[0], node, node.pods[1]


def test_without_an_agent_pods_go_on_and_the_next_agent_hears_of_it(clean: Topology) -> None:
    client, node, server = _place(clean)
    redirect(node, client)
    with tempfile.TemporaryDirectory(dir="/run", prefix=own_name("dns")) as parent, served(server):
        first = DnsNode(node, Path(parent) / "dns")
        first.write()
        with first.running() as process:
            with first.linked():
                status = Path(f"/proc/{process.state.pid}/status").read_text().split("\n")
                facts = {line.partition(":")[0]: line.partition(":")[2].split() for line in status if ":" in line}
                assert set(facts["Uid"]) == {"65534"}
                assert {int(facts[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 12}
            assert addresses_in(ask_for(client, server.address, "google.com")) == ["203.0.113.7"]
            assert ask_for(client, server.address, "github.com").header.rcode == REFUSED
            later = DnsNode(node, Path(parent) / "dns")
            with later.linked():
                wait_until(lambda: len(later.answers) == 1)
                endpoint, name, ((address, ttl_s),) = later.answers[0]
                assert (endpoint, name, address) == (client.address, "google.com.", "203.0.113.7")
                assert 55 <= ttl_s <= 60
            first.forget_rules()
            wait_until(lambda: not process.state.pid)
            drain_events(node)
            with pytest.raises(TimeoutError):
                ask_for(client, server.address, "google.com", timeout_s=0.4)
            reasons = {event.reason for event in drain_events(node) if event.type == EventType.DROP}
            assert reasons - {Reason.UNSUPPORTED_L3} == {Reason.NO_PROXY_SOCKET}
            assert client.ask(server.address, 8080).startswith(server.name), "other ports are not concerned"
            later.write()
            with later.linked():
                assert addresses_in(ask_for(client, server.address, "google.com")) == ["203.0.113.7"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_proxy_that_is_killed_or_stands_still_is_replaced(clean: Topology, how: signal.Signals) -> None:
    client, node, server = _place(clean)
    redirect(node, client)
    with tempfile.TemporaryDirectory(dir="/run", prefix=own_name("dns")) as parent, served(server):
        made = DnsNode(node, Path(parent) / "dns")
        made.write()
        with made.running() as process, made.linked():
            wait_until(lambda: bool(process.state.pid))
            first = process.state.pid
            time.sleep(2 * 0.5)  # it has said that it is well
            os.kill(first, how)
            if how == signal.SIGSTOP:
                wait_until(lambda: process.state.is_silent)
                assert process.state == (first, True, "the DNS proxy stands still: it answers nothing")
            wait_until(lambda: process.state.pid not in (0, first), 15.0)
            wait_until(lambda: is_answered(client, server.address), 10.0)
