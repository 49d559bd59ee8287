# SPDX-License-Identifier: Apache-2.0
"""Relays of two clusters over real connections: what a grant opens, and what stays closed without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from certs import profile
from certs.authority import Authority
from flows.errors import RequestError
from flows.methods import PeerFacts
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.remote import ClientCertificates, RemoteObserver, UnansweredError
from flows.ring import FlowEntry
from kube.reflector import Upsert
from kubeintent.rows import NamespaceIntent
from meshkit.clock import ManualClock
from relay.peers import LOOK_S
from relay.view import ALL
from tests.integration.kvstore.private_etcd import eventually
from tests.integration.relay.relay_world import RelayWorld, add, pods
from tests.support.flow_entries import S

Pair = tuple[RelayWorld, RelayWorld]


def _entry(second: int, source: tuple[str, str, str], destination: tuple[str, str, str], **fields: object) -> FlowEntry:
    flow = pb.Flow(**fields)  # type: ignore[arg-type]
    for end, (cluster, namespace, pod) in ((flow.source, source), (flow.destination, destination)):
        end.cluster_name, end.namespace, end.pod_name = cluster, namespace, pod
    flow.event_type.type = 1
    return FlowEntry(second * S, (source, destination), None, flow.SerializeToString())


CLIENT, SERVER = ("north", "shop", "client"), ("south", "shop", "server")


def _fill(south: RelayWorld) -> None:
    for name, is_global in (("shop", True), ("secret", False)):
        south.namespaces.take([Upsert(name, NamespaceIntent(name, is_global, ()))])
    add(
        south.nodes[0],
        _entry(2, CLIENT, SERVER, verdict=pb.DROPPED, ingress_denied_by=[pb.Policy(name="no-clients")]),
        _entry(3, ("south", "shop", "inside"), SERVER),
        _entry(4, ("north", "shop", "curious"), ("south", "secret", "vault")),
        _entry(5, ("south", "shop", "caller"), ("", "", "")),
    )


async def _asked(world: RelayWorld, *clusters: str) -> list[observer.GetFlowsResponse]:
    return [answer async for answer in world.mesh.flows(observer.GetFlowsRequest(), clusters)]


async def _reached(north: RelayWorld, state: int) -> None:
    def is_so() -> bool:
        for link in north.peers.rows():
            if link.state != state:
                link.doubt()
        return [link.state for link in north.peers.rows()] == [state]

    await eventually(is_so, "the peer's relay was asked")


async def test_one_query_shows_what_left_here_and_what_a_peer_dropped_and_nothing_else_of_it(
    two_clusters: Pair,
) -> None:
    north, south = two_clusters
    _fill(south)
    south.grant("north")
    await _reached(north, relay.NODE_CONNECTED)
    add(north.nodes[0], _entry(1, CLIENT, SERVER, verdict=pb.FORWARDED))
    answers = [a for a in await _asked(north, *ALL) if a.HasField("flow")]
    assert [(a.node_name, a.flow.verdict, [p.name for p in a.flow.ingress_denied_by]) for a in answers] == [
        ("north/n1", pb.FORWARDED, []),
        ("south/n1", pb.DROPPED, ["no-clients"]),
    ]
    assert pods(await _asked(north)) == ["client"], "a request that names no cluster is the own one's"
    assert pods(await _asked(north, "south")) == ["client"]
    with pytest.raises(RequestError, match="has no flows of east, but of north, south"):
        await _asked(north, "east")


async def test_a_peer_without_a_grant_is_refused_and_told_what_to_do(two_clusters: Pair) -> None:
    north, south = two_clusters
    _fill(south)
    await _reached(north, relay.NODE_UNAVAILABLE)
    answers = await _asked(north, *ALL)
    assert pods(answers) == []
    (away,) = [a.node_status for a in answers if a.node_status.state_change == relay.NODE_UNAVAILABLE]
    assert list(away.node_names) == ["south"]
    assert "south does not grant its flows to north: run clustermesh connect --allow-flows" in away.message


@pytest.mark.parametrize(
    ("ended", "said"),
    [("grant", "does not grant its flows to north"), ("authority", "is the name of no relay that its authority")],
)
async def test_a_grant_that_ends_cuts_the_stream_that_it_opened(two_clusters: Pair, ended: str, said: str) -> None:
    north, south = two_clusters
    _fill(south)
    south.grant("north")
    await _reached(north, relay.NODE_CONNECTED)
    turned = ManualClock()
    south.door._clock = turned
    (link,) = north.peers.rows()
    async with aclosing(link.remote.flows(observer.GetFlowsRequest(follow=True, number=9))) as stream:
        while pods([await asyncio.wait_for(anext(stream), 10)]) != ["client"]:
            pass
        if ended == "grant":
            south.grant("north", is_given=False)
        else:
            (south.bundle / "north.crt").write_bytes(south.authority.certificate_pem)
        turned.advance(LOOK_S)
        add(south.nodes[0], _entry(6, CLIENT, SERVER))
        with pytest.raises(UnansweredError, match=said):
            [answer async for answer in stream]


async def test_a_peer_that_asks_without_end_has_no_node_asked_and_leaves_streams_to_others(
    two_clusters: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = two_clusters
    _fill(south)
    for peer in ("north", "east"):
        south.grant(peer)
    await _reached(north, relay.NODE_CONNECTED)
    (node,), (link,) = south.observers.rows(), north.peers.rows()
    asked, ask = 0, node.ask

    async def count() -> bool:
        nonlocal asked
        asked += 1
        return await ask()

    monkeypatch.setattr(node, "ask", count)
    for _ in range(20):
        assert (await link.remote.status()).num_connected_nodes.value == 1
    assert asked < 10, "now and then it is asked by the relay itself"
    async with AsyncExitStack() as opened:

        async def open_stream(remote: RemoteObserver) -> None:
            stream = await opened.enter_async_context(
                aclosing(remote.flows(observer.GetFlowsRequest(follow=True, number=9)))
            )
            await asyncio.wait_for(anext(stream), 10)

        for _ in range(2):
            await open_stream(link.remote)
        with pytest.raises(UnansweredError, match="2 streams are open already"):
            await open_stream(link.remote)
        east = Authority.create("east CA", time.time(), 30)
        (south.bundle / "east.crt").write_bytes(east.certificate_pem)
        await open_stream(await opened.enter_async_context(_relay_of("east", east, south)))


@asynccontextmanager
async def _relay_of(cluster: str, authority: Authority, asked: RelayWorld) -> AsyncIterator[RemoteObserver]:
    """One more relay, whose authority the one that is asked knows from now on."""
    made = authority.issue(profile.relay(cluster), time.time())
    shown = ClientCertificates(asked.authority.certificate_pem, made.cert_pem, made.key_pem)
    found = RemoteObserver(PeerFacts(f"127.0.0.1:{asked.peers_port}", profile.relay_name(asked.cluster)), lambda: shown)
    try:
        yield found
    finally:
        await found.close()


async def test_only_flows_are_told_and_only_to_a_relay_by_its_own_authority(two_clusters: Pair) -> None:
    north, south = two_clusters
    _fill(south)
    south.grant("north")
    facts = PeerFacts(f"127.0.0.1:{south.peers_port}", profile.relay_name("south"))
    relay_of_north = replace(north.asking, ca=south.authority.certificate_pem)
    asked = RemoteObserver(facts, lambda: relay_of_north)
    assert (await asked.status()).num_connected_nodes.value == 1
    assert not (await asked.status()).seen_flows
    with pytest.raises(UnansweredError, match="PERMISSION_DENIED: south tells its namespaces to its own programs only"):
        await asked.namespaces()
    with pytest.raises(UnansweredError, match="PERMISSION_DENIED: south speaks for itself only"):
        await anext(asked.flows(observer.GetFlowsRequest(), [("clustermesh-clusters", "all")]))
    await asked.close()
    for shape in (profile.remote("north"), profile.relay("south")):
        made = north.authority.issue(shape, north.clock.wall())
        shown = ClientCertificates(south.authority.certificate_pem, made.cert_pem, made.key_pem)
        stranger = RemoteObserver(facts, lambda shown=shown: shown)  # type: ignore[misc]
        with pytest.raises(UnansweredError, match=r"PERMISSION_DENIED: .* is the name of no relay"):
            await stranger.status()
        await stranger.close()
