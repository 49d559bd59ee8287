# SPDX-License-Identifier: Apache-2.0
"""The observer as Hubble's clients meet it: names of methods and messages, refusals, streams that are slow or too many."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from agent.observe.serving import read_certificates
from certs import profile
from flows.client import FlowClient, NoAnswerFromServerError, ServerAccess
from flows.methods import PeerFacts, tls_server_name
from flows.proto import flow_pb2 as pb
from flows.proto import health_pb2 as health
from flows.proto import observer_pb2 as observer
from flows.proto import peer_pb2 as peer
from flows.ring import FlowEntry
from flows.server import ObserverServer, Served
from tests.integration.flows.flow_world import FlowWorld, entry
from tests.integration.kvstore.private_etcd import Pki, eventually
from tests.support.flow_entries import S


async def test_flows_come_with_node_time_and_the_servers_version(world: FlowWorld) -> None:
    world.flows.extend([entry(1), entry(2, "b"), entry(3)])
    call = world.flows_of(number=1, whitelist=[pb.FlowFilter(source_pod=["a"])])
    assert ("hubble-server-version", "1.2.3") in list(await call.initial_metadata())
    (answer,) = [found async for found in call]
    assert (answer.node_name, answer.time.seconds, answer.flow.source.pod_name, answer.flow.uuid) == (
        "north/n1",
        3,
        "a",
        "2",
    )


async def test_who_follows_gets_the_next_one(world: FlowWorld) -> None:
    call = world.flows_of(follow=True, number=1)
    world.flows.extend([entry(1)])
    assert (await asyncio.wait_for(call.read(), 5)).time.seconds == 1
    world.flows.extend([entry(2)])
    assert (await asyncio.wait_for(call.read(), 5)).time.seconds == 2
    call.cancel()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"first": True, "follow": True}, "first and follow"),
        ({"whitelist": [pb.FlowFilter(http_path=["("])]}, "no RE2 expression"),
        ({"whitelist": [pb.FlowFilter.FromString(b"\xba\x3e\x03\x0a\x01\x31")]}, "fields 999 are not known here"),
        ({"field_mask": {"paths": ["sauce"]}}, "no field sauce"),
    ],
)
async def test_a_request_that_means_nothing_is_refused(world: FlowWorld, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.flows_of(**fields).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert why in str(caught.value.details())


async def test_bytes_that_are_no_request_are_refused(world: FlowWorld) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.channel.unary_unary("/observer.Observer/ServerStatus")(b"\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_status_namespaces_nodes_and_health_are_answered_as_hubble_does(world: FlowWorld) -> None:
    world.flows.extend([entry(1), entry(2)])
    world.flows.note_namespaces([("south", "b"), ("north", "c")], world.clock.monotonic())
    status = await world.ask(
        "/observer.Observer/ServerStatus", observer.ServerStatusRequest(), observer.ServerStatusResponse
    )
    assert (status.num_flows, status.max_flows, status.seen_flows, status.version) == (2, 1023, 2, "1.2.3")
    assert status.uptime_ns > 0
    assert not status.HasField("num_connected_nodes"), "that is a relay's"
    found = await world.ask(
        "/observer.Observer/GetNamespaces", observer.GetNamespacesRequest(), observer.GetNamespacesResponse
    )
    assert [(row.cluster, row.namespace) for row in found.namespaces] == [("north", "c"), ("south", "b")]
    for method, request, code in (
        ("/observer.Observer/GetNodes", observer.GetNodesRequest(), grpc.StatusCode.UNIMPLEMENTED),
        ("/observer.Observer/GetDebugEvents", observer.GetNodesRequest(), grpc.StatusCode.UNIMPLEMENTED),
        ("/grpc.health.v1.Health/Check", health.HealthCheckRequest(service="observer"), grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.ask(method, request, observer.GetNodesResponse)
        assert caught.value.code() is code
    asked = health.HealthCheckRequest(service="hubble.server.Observer")
    answer = await world.ask("/grpc.health.v1.Health/Check", asked, health.HealthCheckResponse)
    assert answer.status == health.HealthCheckResponse.SERVING


async def test_peers_are_told_and_then_every_change(world: FlowWorld) -> None:
    call = world.stream("/peer.Peer/Notify", peer.NotifyRequest(), peer.ChangeNotification)
    first = await asyncio.wait_for(call.read(), 5)
    assert (first.name, first.address, first.type) == ("north/n1", "10.0.0.1:4244", peer.PEER_ADDED)
    assert first.tls.server_name == tls_server_name("north", "n1") == "n1.north.hubble-grpc.cilium.io"
    world.peers["north/n2"] = PeerFacts("10.0.0.2:4244", "")
    world.changed.set()
    assert (await asyncio.wait_for(call.read(), 5)).type == peer.PEER_ADDED
    world.peers = {"north/n2": PeerFacts("10.0.0.3:4244", "")}
    world.changed.set()
    told = [await asyncio.wait_for(call.read(), 5) for _ in range(2)]
    assert [(c.name, c.type) for c in told] == [("north/n1", peer.PEER_DELETED), ("north/n2", peer.PEER_UPDATED)]
    call.cancel()


async def test_agent_events_are_asked_for_as_flows_are(world: FlowWorld) -> None:
    for second, kind in enumerate((pb.AGENT_STARTED, pb.ENDPOINT_CREATED)):
        world.events.extend([FlowEntry(second * S, None, None, pb.AgentEvent(type=kind).SerializeToString())])
    call = world.stream(
        "/observer.Observer/GetAgentEvents", observer.GetAgentEventsRequest(number=1), observer.GetAgentEventsResponse
    )
    (answer,) = [found async for found in call]
    assert (answer.agent_event.type, answer.time.seconds, answer.node_name) == (pb.ENDPOINT_CREATED, 1, "north/n1")


async def test_more_streams_than_there_are_places_are_refused_and_counted(world: FlowWorld) -> None:
    calls = [world.flows_of(follow=True) for _ in range(3)]
    for call in calls:
        await call.initial_metadata()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.flows_of(follow=True).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (len(world.streams), world.streams.refused) == (3, 1)
    calls[0].cancel()
    await eventually(lambda: len(world.streams) == 2)
    await world.flows_of(follow=True).initial_metadata()


async def test_a_reader_that_takes_nothing_is_cut_off_and_the_others_go_on(world: FlowWorld) -> None:
    world.flows.extend(entry(n, size=20_000) for n in range(1000))
    stalled, other = world.flows_of(), world.flows_of(follow=True)
    await stalled.initial_metadata()
    await other.initial_metadata()
    now_s = 0.0
    while not world.streams.cut:
        await asyncio.sleep(0.05)
        now_s += 1.0
        await world.streams.cut_stalled(now_s)
        assert now_s < 200
    world.flows.extend([entry(2000)])
    assert (await asyncio.wait_for(other.read(), 5)).time.seconds == 2000
    assert (world.streams.cut, len(world.streams)) == (1, 1)
    with pytest.raises(grpc.aio.AioRpcError, match="nothing was read for 5 s"):
        async with asyncio.timeout(10):
            [found async for found in stalled]


async def test_only_clients_of_the_authority_are_answered_over_tls(world: FlowWorld, tmp_path: Path) -> None:
    pki, folder = Pki(), tmp_path / "served"
    name = tls_server_name("north", "n1")
    shown = pki.north.issue(profile.Profile(name, dns_names=(name,), is_server=True), world.clock.wall())
    folder.mkdir()
    assert read_certificates(folder) is None
    (folder / "ca.crt").write_bytes(pki.north.certificate_pem)
    (folder / "tls.crt").write_bytes(shown.cert_pem)
    (folder / "tls.key").write_bytes(shown.key_pem)
    served = Served(world.flows, world.events, lambda: world.peers, world.changed, "1.2.3")
    server = ObserverServer(served, world.clock, world.streams)
    port = server.listen_tls("127.0.0.1:0", lambda: read_certificates(folder))
    await server.start()
    world.flows.extend([entry(1)])
    mine = pki.client("relay")
    access = {"server": f"tls://127.0.0.1:{port}", "ca": pki.north.certificate_pem, "server_name": name}
    try:
        client = FlowClient(ServerAccess(**access, cert=mine.cert_pem, key=mine.key_pem))
        assert await asyncio.to_thread(client.is_healthy)
        found = await asyncio.to_thread(lambda: list(client.get_flows(observer.GetFlowsRequest())))
        assert [answer.time.seconds for answer in found] == [1]
        client.close()
        stranger = FlowClient(ServerAccess(**access, timeout_s=1.0))
        with pytest.raises(NoAnswerFromServerError, match=f"127.0.0.1:{port}"):
            await asyncio.to_thread(stranger.server_status)
        stranger.close()
    finally:
        await server.stop()
