# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy between pods and a real server: which names are answered, by whom, and what of strange messages goes on."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dnslib import DNSRecord

from agent.answered_names import AnsweredAddress
from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue, EventType
from agent.datapath.layout import (
    Direction,
    EndpointFlag,
    EndpointValue,
    IfindexKey,
    IpcacheKey,
    IpcacheValue,
    PolicyKey,
    PolicyValue,
)
from agent.datapath.reasons import Reason
from agent.dns.judge import MOST_OF_A_CLIENT, Count
from agent.dns.streams import MOST_OF_A_CLIENT as MOST_CONNECTIONS_OF_A_CLIENT
from meshpolicy.dns_name import dns_rule
from tests.integration.datapath.datapath_topology import ROUTER, Node, Pod, Topology, drain_events
from tests.integration.datapath.dns_node import PORT, DnsNode, addresses_in, ask_for, redirect, served, wait_until
from tests.integration.datapath.masquerade import masquerading
from tests.packet.datapath_host import inside, run
from tests.support.leftovers import own_name
from tests.support.name_server import MANY, MANY_ADDRESSES, Forgery, NameServer

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
VIP = "172.20.1.53"
TCP, UDP = 6, 17
REFUSED, NOERROR, SERVFAIL, NXDOMAIN = 5, 0, 2, 3
SEEN_REPLY = 8
"""`CT_SEEN_REPLY`."""


@pytest.fixture
def dns(clean: Topology) -> Iterator[DnsNode]:
    """On the first node; a process and an agent are there."""
    with tempfile.TemporaryDirectory(dir="/run", prefix=own_name("dns")) as parent:  # where nobody may enter
        made = DnsNode(clean.nodes[0], Path(parent) / "dns")
        made.write()
        with made.running(), made.linked():
            yield made


def _place(mesh: Topology, where: str) -> tuple[Pod, Node, Pod]:
    client, node = mesh.nodes[0].pods[0], mesh.nodes[0]
    other = {"local": node, "routed": mesh.nodes[1], "tunnel": mesh.nodes[2], "masquerading": mesh.nodes[2]}[where]
    server = other.pods[1]
    if where == "routed":
        for here, pod in ((node, server), (other, client)):
            here.maps.ipcache.update([(IpcacheKey(pod.address), IpcacheValue(pod.identity, cluster_id=here.cluster))])
    return client, node, server


@pytest.fixture(autouse=True)
def _routes(mesh: Topology) -> Iterator[None]:
    """What the tests say of routes is forgotten after each."""
    yield
    for node in mesh.nodes:
        node.maps.ipcache.update(mesh.ipcache_for(node))


def _ask_by_tcp(made: socket.socket, name: str) -> DNSRecord:
    packed = DNSRecord.question(name).pack()
    made.sendall(struct.pack("!H", len(packed)) + packed)
    found = b""
    while len(found) < 2 or len(found) < 2 + struct.unpack("!H", found[:2])[0]:
        more = made.recv(65536)
        assert more
        found += more
    return DNSRecord.parse(found[2:])


@pytest.mark.parametrize("where", ["local", "routed", "tunnel", "masquerading"])
def test_names_that_rules_name_are_answered_and_others_refused(clean: Topology, dns: DnsNode, where: str) -> None:
    client, node, server = _place(clean, where)
    redirect(node, client)
    with served(server) as names, masquerading(node) if where == "masquerading" else contextlib.nullcontext():
        assert addresses_in(ask_for(client, server.address, "google.com")) == ["203.0.113.7"]
        assert ask_for(client, server.address, "github.com").header.rcode == REFUSED
        assert ask_for(client, server.address, "www.Example.COM").header.rcode == NOERROR
        assert names.asked == [(client.address, "google.com."), (client.address, "www.Example.COM.")]
    assert dns.answers[0] == (client.address, "google.com.", (AnsweredAddress("203.0.113.7", 60),))
    wait_until(lambda: len(dns.questions) == 3)
    assert [(q["name"], q["refused"]) for q in dns.questions] == [
        ("google.com.", False),
        ("github.com.", True),
        ("www.example.com.", False),
    ]
    assert dns.link.said.counts == {Count.ALLOWED: 2, Count.REFUSED: 1}


@pytest.mark.parametrize("where", ["local", "routed", "tunnel"])
def test_what_the_pod_asked_before_its_rule_takes_no_answer_from_the_proxy(
    clean: Topology, dns: DnsNode, where: str
) -> None:
    """On ports that the proxy draws for its questions now and then: a sixteenth of them all, a hundred times."""
    client, node, server = _place(clean, where)
    redirect(node, client)
    had = ConntrackValue(2, 99, 2**32 - 1, server.identity, flags=SEEN_REPLY, nat_address="172.20.1.10", nat_port=53)
    ports = range(8192, 8192 + 4000)  # as many as the map takes
    keys = [ConntrackKey(client.address, server.address, port, 53, UDP, ConntrackKind.EGRESS) for port in ports]
    try:
        node.maps.conntrack_other.update([(key, had) for key in keys])
        with served(server):
            for _ in range(100):
                assert addresses_in(ask_for(client, server.address, "google.com")) == ["203.0.113.7"]
    finally:
        node.maps.conntrack_other.delete(keys)


def test_the_answer_comes_from_the_address_that_was_asked(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    clean.service(VIP, [server], UDP)
    port = 5353  # of a pod's server behind the service
    entries = [(PolicyKey(client.endpoint_id, Direction.EGRESS, 0, UDP, port, 16), PolicyValue(False, 2, 2, PORT))]
    redirect(node, client)
    node.maps.policy.update(entries)
    with client.datagram() as made:
        made.connect((VIP, 80))
        made.send(DNSRecord.question("github.com").pack())
        assert DNSRecord.parse(made.recv(512)).header.rcode == REFUSED


def test_aliases_lead_to_addresses_of_both_families(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server):
        assert addresses_in(ask_for(client, server.address, "www.example.com")) == ["203.0.113.8"]
        assert addresses_in(ask_for(client, server.address, "www.example.com", "AAAA")) == ["2001:db8::8"]
        assert ask_for(client, server.address, "none.example.com").header.rcode == 3
    assert [found for _, name, found in dns.answers if name == "www.example.com."] == [
        (AnsweredAddress("203.0.113.8", 20),),
        (AnsweredAddress("2001:db8::8", 10),),
    ]


def test_large_answers_are_cut_off_by_udp_and_whole_by_tcp(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "tunnel")
    redirect(node, client)
    with served(server) as names:
        assert ask_for(client, server.address, MANY, size=4096).header.tc
        with client.connect(server.address, 53) as made:
            assert addresses_in(_ask_by_tcp(made, MANY)) == MANY_ADDRESSES
            assert _ask_by_tcp(made, "github.com").header.rcode == REFUSED
            assert addresses_in(_ask_by_tcp(made, "google.com")) == ["203.0.113.7"]
        assert {address for address, _ in names.asked} == {client.address}
    assert len(dns.answers[-2][2]) == len(MANY_ADDRESSES)


def test_a_connection_outlives_those_that_its_server_closes(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server) as names, client.connect(server.address, 53) as made:
        names.closes = True
        for _ in range(3):
            assert addresses_in(_ask_by_tcp(made, "google.com")) == ["203.0.113.7"]


@pytest.mark.parametrize(
    ("forgery", "rcode", "count"),
    [
        (Forgery.OTHER_ID, NOERROR, Count.FOREIGN_ANSWER),
        (Forgery.OTHER_NAME, NOERROR, Count.FOREIGN_ANSWER),
        (Forgery.LOOP, SERVFAIL, Count.MALFORMED_ANSWER),
        (Forgery.CUT, SERVFAIL, Count.MALFORMED_ANSWER),
        (Forgery.OTHER_OWNER, NOERROR, Count.ALLOWED),
    ],
)
def test_what_servers_must_not_answer_opens_nothing(
    clean: Topology, dns: DnsNode, forgery: Forgery, rcode: int, count: str
) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server, forgery):
        assert ask_for(client, server.address, "google.com").header.rcode == rcode
    assert {a.address for _, _, found in dns.answers for a in found} <= {"203.0.113.7"}
    wait_until(lambda: dns.link.said.counts.get(count, 0) > 0)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack("!6H", 7, 0x0100, 2, 0, 0, 0) + b"\6google\3com\0\0\1\0\1\6github\3com\0\0\1\0\1",
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\6google\3com\0\0\1\0\1" + b"more",
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x3f" + b"a" * 63 * 5,
        b"\0" * 5,
    ],
)
def test_malformed_queries_reach_no_server(clean: Topology, dns: DnsNode, raw: bytes) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server) as names, client.datagram() as made:
        made.connect((server.address, 53))
        made.send(raw)
        wait_until(lambda: dns.link.said.counts.get(Count.MALFORMED_QUERY) == 1)
        assert names.asked == []


def test_an_answer_waits_for_policy_entries_but_not_for_long(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server):
        dns.delay_s = 0.05
        began = time.monotonic()
        ask_for(client, server.address, "google.com")
        assert time.monotonic() - began >= 0.05
        dns.delay_s = 2.0
        began = time.monotonic()
        assert addresses_in(ask_for(client, server.address, "host.example.com", timeout_s=1.5)) == ["203.0.113.10"]
        assert 0.1 <= time.monotonic() - began < 1.5
    wait_until(lambda: dns.link.said.counts.get(Count.LATE) == 1)


def test_an_answer_that_the_agent_has_installed_is_told_and_not_waited_for(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server):
        for _ in range(2):
            ask_for(client, server.address, "google.com")
        dns.delay_s = 2.0
        for _ in range(3):
            ask_for(client, server.address, "google.com")
        wait_until(lambda: len(dns.answers) == 5)
        wait_until(lambda: dns.link.said.counts.get(Count.ALLOWED) == 5)
        assert Count.LATE not in dns.link.said.counts


def test_nobody_can_guess_where_an_answer_belongs(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server) as names:
        for _ in range(20):
            ask_for(client, server.address, "google.com")
    ports, idents = zip(*names.marks, strict=True)
    assert len(set(ports)) > 15
    assert len(set(idents)) > 15
    assert max(ports) - min(ports) > 10_000


def test_one_pod_has_so_many_queries_and_connections_under_way(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    question = bytes(DNSRecord.question("google.com").pack())
    with inside(server.namespace):
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening = socket.create_server(("", 53))
    with silent, listening, client.datagram() as made:
        silent.bind(("", 53))
        made.connect((server.address, 53))
        for _ in range(MOST_OF_A_CLIENT + 1):
            made.send(question)
        assert DNSRecord.parse(made.recv(512)).header.rcode == SERVFAIL
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_CONNECTIONS_OF_A_CLIENT):
                stack.enter_context(client.connect(server.address, 53)).send(b"\0")
            assert stack.enter_context(client.connect(server.address, 53)).recv(1) == b""
        wait_until(lambda: dns.link.said.counts.get(Count.OVERLOADED) == 2)


def test_other_rules_are_in_force_at_once_and_every_name_is_any_name(clean: Topology, dns: DnsNode) -> None:
    client, node, server = _place(clean, "local")
    redirect(node, client)
    with served(server):
        dns.write(frozenset((dns_rule(match_pattern="*"),)))
        dns.link.rules_changed()
        wait_until(lambda: addresses_in(ask_for(client, server.address, "github.com")) == ["203.0.113.9"])
        dns.write(refusal=NXDOMAIN)
        dns.link.rules_changed()
        wait_until(lambda: ask_for(client, server.address, "github.com").header.rcode == NXDOMAIN)


def test_a_server_on_the_node_itself_is_asked_and_keeps_its_own_clients(clean: Topology, dns: DnsNode) -> None:
    client, node, _ = _place(clean, "local")
    other = node.pods[1]
    redirect(node, client)
    with inside(node.namespace):
        server = NameServer()
    with server.running():
        assert addresses_in(ask_for(client, node.address, "google.com")) == ["203.0.113.7"]
        assert ask_for(client, node.address, "github.com").header.rcode == REFUSED
        assert addresses_in(ask_for(other, node.address, "github.com")) == ["203.0.113.9"]


def test_where_host_policies_judge_the_node_its_own_server_is_not_asked(clean: Topology, dns: DnsNode) -> None:
    client, node, _ = _place(clean, "local")
    redirect(node, client)
    enforced = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
    host = EndpointValue(0, 0, enforced, 1, 1, "00:00:00:00:00:00", "00:00:00:00:00:00", "0.0.0.0")
    node.maps.policy.update([(PolicyKey(0, d, 0), PolicyValue(False, 1, 1)) for d in Direction])
    node.maps.node.update([(IfindexKey(0), host)])
    drain_events(node)
    try:
        with inside(node.namespace):
            server = NameServer()
        with server.running(), pytest.raises(TimeoutError):
            ask_for(client, node.address, "google.com", timeout_s=0.4)
        assert server.asked == []
        reasons = {event.reason for event in drain_events(node) if event.type == EventType.DROP}
        assert reasons - {Reason.UNSUPPORTED_L3} == {Reason.PROXY_UNSUPPORTED}
    finally:
        node.maps.node.delete([IfindexKey(0)])


@pytest.mark.parametrize("masquerades", [False, True])
def test_a_server_outside_of_the_mesh_is_asked(clean: Topology, dns: DnsNode, *, masquerades: bool) -> None:
    client, node, _ = _place(clean, "local")
    redirect(node, client)
    with contextlib.ExitStack() as stack:
        if masquerades:
            table = (
                "table ip dnsout { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }"
            )
            run("ip", "netns", "exec", node.namespace, "nft", table)
            stack.callback(run, "ip", "netns", "exec", node.namespace, "nft", "delete table ip dnsout")
        else:
            route = (client.address, "via", node.address)
            run("ip", "-n", clean.underlay, "route", "add", *route)
            stack.callback(run, "ip", "-n", clean.underlay, "route", "del", *route)
        with inside(clean.underlay):
            server = NameServer()
        stack.enter_context(server.running())
        assert addresses_in(ask_for(client, ROUTER, "google.com")) == ["203.0.113.7"]
        assert ask_for(client, ROUTER, "github.com").header.rcode == REFUSED
        with client.connect(ROUTER, 53) as made:
            assert addresses_in(_ask_by_tcp(made, "google.com")) == ["203.0.113.7"]
        assert {a for a, _ in server.asked} == {node.address if masquerades else client.address}
