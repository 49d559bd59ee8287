# SPDX-License-Identifier: Apache-2.0
"""Flows of several nodes over real connections: their order, nodes that go and come, readers that take nothing."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

import grpc
import pytest

from certs import profile
from certs.authority import Authority
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.remote import RemoteObserver, UnansweredError
from tests.integration.flows.flow_world import entry
from tests.integration.kvstore.private_etcd import eventually
from tests.integration.relay.relay_world import RelayWorld, add, pods, told

ALL = ("north/n1", "north/n2", "north/n3")


async def _ask(world: RelayWorld, **fields: object) -> list[observer.GetFlowsResponse]:
    client = world.client()
    request = observer.GetFlowsRequest(**fields)  # type: ignore[arg-type]
    try:
        return [answer async for answer in client.flows(request)]
    finally:
        await client.close()


async def _connected(world: RelayWorld, number: int = 3) -> None:
    def is_so() -> bool:
        return [link.state for link in world.observers.rows()].count(relay.NODE_CONNECTED) == number

    await eventually(is_so, "observers connected")


async def test_flows_of_all_nodes_come_in_the_order_of_time(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    first, second, third = relay_world.nodes
    add(first, entry(1, "a"), entry(4, "d"))
    add(second, entry(2, "b"), entry(5, "e"))
    add(third, entry(3, "c"))
    answers = await _ask(relay_world, number=20)
    assert pods(answers) == ["a", "b", "c", "d", "e"]
    assert told(answers) == [(relay.NODE_CONNECTED, ALL)]
    assert pods(await _ask(relay_world, number=1)) == ["c", "d", "e"], "the number is each node's"
    assert pods(await _ask(relay_world, whitelist=[pb.FlowFilter(source_pod=["b"])])) == ["b"]


async def test_a_node_that_is_gone_is_named_and_the_others_answer(relay_world: RelayWorld) -> None:
    await relay_world.nodes[1].stop()
    await eventually(lambda: relay_world.observers.rows()[1].state == relay.NODE_UNAVAILABLE)
    await _connected(relay_world, 2)
    add(relay_world.nodes[0], entry(1, "a"))
    answers = await _ask(relay_world)
    assert pods(answers) == ["a"]
    assert (relay.NODE_UNAVAILABLE, ("north/n2",)) in told(answers)
    client = relay_world.client()
    status = await client.status()
    await client.close()
    assert (status.num_connected_nodes.value, list(status.unavailable_nodes)) == (2, ["north/n2"])
    assert status.num_flows == 1
    found = await relay_world.mesh.list_nodes()
    assert [node.name for node in found.nodes] == list(ALL)
    assert [node.state for node in found.nodes] == [relay.NODE_CONNECTED, relay.NODE_UNAVAILABLE, relay.NODE_CONNECTED]


async def test_a_node_that_comes_back_is_followed_from_where_it_was_heard_last(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    node = relay_world.nodes[0]
    client, answers = relay_world.client(), []
    async with aclosing(client.flows(observer.GetFlowsRequest(follow=True))) as stream:
        answers.append(await anext(stream))
        await eventually(lambda: len(node.streams) == 1)
        add(node, entry(1, "a"))
        while pods(answers) != ["a"]:
            answers.append(await asyncio.wait_for(anext(stream), 10))
        await node.stop()
        while (relay.NODE_ERROR, ("north/n1",)) not in told(answers):
            answers.append(await asyncio.wait_for(anext(stream), 10))
        add(node, entry(2, "b"))
        await node.start()
        while pods(answers) != ["a", "b"]:
            answers.append(await asyncio.wait_for(anext(stream), 20))
    await client.close()


async def test_a_node_whose_clock_is_ahead_holds_nobody_up_and_is_named(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    now_s = int(relay_world.clock.wall())
    add(relay_world.nodes[0], *(entry(now_s + 3600 + n, f"ahead{n}") for n in range(3)))
    add(relay_world.nodes[1], entry(now_s - 7200, "behind"), entry(now_s - 7100, "behind"))
    add(relay_world.nodes[2], entry(now_s - 1, "right"))
    answers = await _ask(relay_world)
    assert pods(answers) == ["behind", "behind", "right", "ahead0", "ahead1", "ahead2"]
    (error,) = [a.node_status for a in answers if a.node_status.state_change == relay.NODE_ERROR]
    assert list(error.node_names) == ["north/n1"]
    assert re.match(r"its clock is 3[56]\d\d s ahead", error.message)


async def test_a_client_that_never_reads_is_cut_off_and_the_next_ones_are_answered(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    for node in relay_world.nodes:
        add(node, *(entry(n, "a", 60_000) for n in range(300)))
    client = relay_world.client()
    stream = client.flows(observer.GetFlowsRequest(follow=True, number=300))
    await anext(stream)
    now_s = relay_world.clock.monotonic()

    async def sweep() -> bool:
        nonlocal now_s
        now_s += 0.6
        await relay_world.streams.cut_stalled(now_s)
        await asyncio.sleep(0.05)
        return relay_world.streams.cut == 1

    for _ in range(100):
        if await sweep():
            break
    assert relay_world.streams.cut == 1
    await eventually(lambda: not len(relay_world.streams))
    await eventually(lambda: not any(len(node.streams) for node in relay_world.nodes), "its streams of nodes ended too")
    with pytest.raises(UnansweredError, match="nothing was read for"):
        [answer async for answer in stream]
    await client.close()
    assert len(pods(await _ask(relay_world, number=2))) == 6


async def test_streams_beyond_the_limit_are_refused_with_a_clear_status(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    client = relay_world.client()
    streams = [client.flows(observer.GetFlowsRequest(follow=True)) for _ in range(40)]
    firsts = await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)
    refused = [each for each in firsts if isinstance(each, UnansweredError)]
    assert (len(refused), relay_world.streams.refused) == (36, 36)
    assert {str(each) for each in refused} == {"RESOURCE_EXHAUSTED: 4 streams are open already, end one of them"}
    for stream in streams:
        await stream.aclose()
    await client.close()
    await eventually(lambda: not len(relay_world.streams))


async def test_only_clients_of_the_clusters_own_authority_are_answered(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    stranger = Authority.create("south CA", relay_world.clock.wall(), 30)
    client = relay_world.client(relay_world.certificates(profile.local("north"), stranger))
    with pytest.raises(UnansweredError):
        await client.status()
    await client.close()


@pytest.mark.parametrize(
    "shape",
    [
        *(make("south") for make in (profile.relay, profile.local, profile.admin, profile.remote)),
        profile.Profile(profile.SHARED_REMOTE_USER),
    ],
    ids=lambda shape: shape.common_name,
)
async def test_a_program_of_another_cluster_is_told_nothing_though_both_share_an_authority(
    relay_world: RelayWorld, shape: profile.Profile
) -> None:
    await _connected(relay_world)
    add(relay_world.nodes[0], entry(1, "a"))
    shown = relay_world.certificates(shape)
    for facts in (None, relay_world.nodes[0].facts):
        asked = relay_world.client(shown) if facts is None else RemoteObserver(facts, lambda: shown)
        for ask in (asked.status(), asked.namespaces(), anext(asked.flows(observer.GetFlowsRequest()))):
            with pytest.raises(UnansweredError, match=r"PERMISSION_DENIED: .* is a program of another cluster"):
                await ask
        await asked.close()


async def test_a_relay_with_new_certificates_goes_on_and_one_of_a_stranger_is_refused(relay_world: RelayWorld) -> None:
    await _connected(relay_world)
    relay_world.asking = relay_world.certificates(profile.relay("north"))
    (link, *_) = relay_world.observers.rows()
    assert await link.ask()
    stranger = Authority.create("south CA", relay_world.clock.wall(), 30)
    relay_world.asking = relay_world.certificates(profile.relay("north"), stranger)
    assert not await link.ask()
    assert link.why


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"first": True, "follow": True}, "first and follow"), ({"whitelist": [{"http_path": ["("]}]}, "no RE2")],
)
async def test_a_request_that_means_nothing_is_refused_by_the_relay(
    relay_world: RelayWorld, fields: dict[str, object], why: str
) -> None:
    with pytest.raises(UnansweredError, match=f"{grpc.StatusCode.INVALID_ARGUMENT.name}: .*{why}"):
        await _ask(relay_world, **fields)
