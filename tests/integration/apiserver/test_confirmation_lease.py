# SPDX-License-Identifier: Apache-2.0
"""An agent's word in a Lease of a real API: written, read back, made again when somebody deletes it; only ours is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.bootstrap import Facts
from agent.confirmation.feature import ConfirmationFeature
from agent.confirmation.lease import ConfirmationLease
from agent.core import open_core
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Endpoint, Prefix
from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import Tables
from kube.client import KubeClient, in_thread
from kube.resource import LEASES, NODES
from meshapi.installed import LEASE_PREFIX
from meshkit.clock import ManualClock, SystemClock
from meshkit.wake import Wake
from meshmodel.names import ClusterId, ClusterName
from tests.integration.apiserver.apiserver_world import serve_kubernetes, until

NORTH, NODE, NAMESPACE = ClusterName("north"), "n1", "kube-system"
NAME = LEASE_PREFIX + NODE


@asynccontextmanager
async def heard(client: KubeClient) -> AsyncIterator[Tables]:
    """What the apiserver's source keeps of the cluster."""
    tables, clock = Tables(), SystemClock()
    confirmations = Confirmations(tables, now=clock.monotonic)
    plan = SourcePlan(cilium=False)
    source = Source(client, tables, Problems(None, ManualClock()), lambda _: plan, confirmations=confirmations)
    running = asyncio.ensure_future(source.run())
    try:
        yield tables
    finally:
        running.cancel()
        await asyncio.wait([running])


def record(name: str, address: str) -> Prefix:
    return Prefix(f"{address}/32", 65_537, "", NORTH, ClusterId(1), ClaimOrigin.POD, "172.18.0.2", "shop", name)


def words(tables: Tables) -> list[dict[str, str]]:
    return [dict(row.pods) for row in tables.confirmations.rows()]


class Ahead(SystemClock):
    """A machine's wall clock that is so many seconds ahead."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def wall(self) -> float:
        return super().wall() + self._ahead_s


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
async def test_what_an_agent_confirms_is_heard_by_the_apiserver_and_kept_for_the_next_agent(
    tmp_path: Path, ahead_s: float
) -> None:
    """Whatever the clocks of their machines say."""
    async with serve_kubernetes(tmp_path) as (_, client), heard(client) as tables:
        await in_thread(client.create, NODES, {"metadata": {"name": NODE}})
        facts = Facts(NORTH, ClusterId(1), 255, NODE, "172.18.0.2", ("10.1.0.0/24",))
        settings = AgentSettings(local_etcd="none", node_name=NODE)
        core = await open_core(settings, facts, client, MemoryHost(), Ahead(ahead_s))
        enforced = Wake()
        feature = ConfirmationFeature(core, lambda _: True, enforced)

        def enforce(name: str, address: str, uid: str) -> None:
            feature.pods.hear(record(name, address), uid)
            with core.db.write():
                core.db.endpoints.put(Endpoint(address, 7, 12, "", "", 65_537, "shop", name))
            enforced.set()

        running = asyncio.ensure_future(feature.tasks()["confirmed pods"])
        try:
            await until(lambda: words(tables) == [{}])
            enforce("a", "10.1.0.5", "u1")
            await until(lambda: words(tables) == [{"10.1.0.5": "u1"}])
            assert await in_thread(ConfirmationLease(client, NAMESPACE, NODE).read) == {"10.1.0.5": "u1"}
            found = await in_thread(client.get, LEASES, NAME, NAMESPACE)
            assert found is not None
            assert (found["spec"]["holderIdentity"], found["metadata"]["ownerReferences"][0]["kind"]) == (NODE, "Node")
            await in_thread(client.delete, LEASES, NAME, NAMESPACE)
            enforce("b", "10.1.0.6", "u2")
            await until(lambda: words(tables) == [{"10.1.0.5": "u1", "10.1.0.6": "u2"}])
            assert feature.problems() == ()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_a_lease_of_another_namespace_speaks_for_nobody(tmp_path: Path) -> None:
    async with serve_kubernetes(tmp_path) as (_, client), heard(client) as tables:
        await in_thread(ConfirmationLease(client, "default", NODE).write, {"10.1.0.5": "u1"}, 0.0)
        await in_thread(ConfirmationLease(client, NAMESPACE, "n2").write, {}, 0.0)
        await until(lambda: len(tables.confirmations) > 0)
        assert [row.node for row in tables.confirmations.rows()] == ["n2"]
