# SPDX-License-Identifier: Apache-2.0
"""When confirmed pods are written to the node's Lease: not before all is listed, soon after a change, now and then, again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from unittest.mock import create_autospec

import pytest

from agent.bootstrap import Facts
from agent.confirmation.feature import GATHER_S, RENEW_S, ConfirmationFeature
from agent.core import Core, open_core
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Endpoint, Prefix
from kube.client import KubeClient
from kube.errors import KubeError, Unreachable
from meshapi.installed import CONFIRMED_PODS
from meshkit.clock import ManualClock, settle
from meshkit.health import Health, HealthLevel
from meshkit.wake import Wake
from meshmodel.names import ClusterId, ClusterName

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
POD = "10.1.0.5"
TABLES = ("prefixes", "endpoints", "verdicts")


class Cluster:
    """An API that writes down what it is asked; `failure` is what it says instead of an answer while there is one."""

    def __init__(self) -> None:
        self.client = create_autospec(KubeClient, instance=True)
        self.calls: list[str] = []
        self.written: list[str] = []
        self.failure: KubeError | None = None
        self.client.get.side_effect = lambda *_: self._answer("read")
        self.client.patch_merge.side_effect = self._patch

    def _answer(self, word: str) -> None:
        self.calls.append(word)
        if self.failure is not None:
            raise self.failure

    def _patch(
        self, _resource: object, _name: str, body: dict[str, dict[str, dict[str, str]]], _namespace: str
    ) -> None:
        self._answer("write")
        self.written.append(body["metadata"]["annotations"][CONFIRMED_PODS])

    async def asked(self) -> list[str]:
        """The calls since the last time."""
        await settle()
        calls, self.calls = self.calls, []
        return calls


class Node:
    def __init__(self, cluster: Cluster, core: Core, clock: ManualClock) -> None:
        self.cluster, self.core, self.clock, self.enforced = cluster, core, clock, Wake()
        self.listed = [getattr(core.db, name).expect("test") for name in TABLES]
        self.feature = ConfirmationFeature(core, lambda _: True, self.enforced)
        self.task: asyncio.Future[None] | None = None

    def start(self) -> None:
        self.task = asyncio.ensure_future(self.feature.tasks()["confirmed pods"])

    def enforce(self, address: str, uid: str) -> None:
        row = Prefix(f"{address}/32", 65_537, "", NORTH, NORTH_ID, ClaimOrigin.POD, "172.18.0.2", "shop", "a")
        self.feature.pods.hear(row, uid)
        with self.core.db.write():
            self.core.db.endpoints.put(Endpoint(address, 7, 12, "", "", 65_537, "shop", "a"))
        self.enforced.set()

    async def list_everything(self) -> None:
        for done in self.listed:
            done()
        await settle()


async def _call_at_once(function: Callable[..., object], *arguments: object) -> object:
    return function(*arguments)


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr("agent.confirmation.feature.in_thread", _call_at_once)
    cluster, clock = Cluster(), ManualClock()
    core = await open_core(AgentSettings(local_etcd="none", node_name="n1"), FACTS, cluster.client, MemoryHost(), clock)
    node = Node(cluster, core, clock)
    yield node
    if node.task is not None:
        node.task.cancel()
        await asyncio.wait([node.task])


async def test_nothing_is_written_before_the_earlier_lease_is_read_and_everything_is_listed(node: Node) -> None:
    node.start()
    assert await node.cluster.asked() == ["read"]
    node.enforce(POD, "u1")
    await node.clock.run_for(3_600.0)
    assert await node.cluster.asked() == []
    await node.list_everything()
    assert await node.cluster.asked() == ["write"]
    assert node.cluster.written == ['{"10.1.0.5":"u1"}']


async def test_a_new_pod_is_written_soon_and_the_lease_is_renewed_now_and_then(node: Node) -> None:
    node.start()
    await node.list_everything()
    assert await node.cluster.asked() == ["read", "write"]
    await node.clock.run_for(GATHER_S)
    node.enforce(POD, "u1")
    await node.clock.run_for(GATHER_S)
    assert await node.cluster.asked() == ["write"]
    node.enforced.set()  # a round that confirmed nothing new
    await node.clock.run_for(RENEW_S - GATHER_S)
    assert await node.cluster.asked() == []
    await node.clock.run_for(2 * GATHER_S)
    assert await node.cluster.asked() == ["write"]
    assert node.cluster.written == ["{}", '{"10.1.0.5":"u1"}', '{"10.1.0.5":"u1"}']


@pytest.mark.parametrize("step", ["read", "write"])
@pytest.mark.runbook("cannot-confirm")
async def test_a_call_that_fails_is_shown_and_made_again(node: Node, step: str) -> None:
    if step == "write":
        node.start()
        assert await node.cluster.asked() == ["read"]
    node.cluster.failure = Unreachable("the server is not there")
    if step == "read":
        node.start()
    await node.list_everything()
    assert await node.cluster.asked() == [step]
    assert "new ones are not announced" in node.feature.problems()[0]
    health = Health(node.clock)
    node.feature.check_health(health)
    assert health.snapshot()["confirmation"].level is HealthLevel.DEGRADED
    node.cluster.failure = None
    await node.clock.run_for(1.0)
    assert (await node.cluster.asked())[0] == step
    assert node.feature.problems() == ()
    node.feature.check_health(health)
    assert health.snapshot()["confirmation"].level is HealthLevel.OK


async def test_without_an_api_or_a_node_name_no_lease_is_written() -> None:
    for client, name in ((None, "n1"), (Cluster().client, "")):
        core = await open_core(
            AgentSettings(local_etcd="none", node_name=name), FACTS, client, MemoryHost(), ManualClock()
        )
        assert ConfirmationFeature(core, lambda _: True, Wake()).tasks() == {}
