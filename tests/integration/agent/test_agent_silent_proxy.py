# SPDX-License-Identifier: Apache-2.0
"""What the agent says of an Envoy that stands still, or that nobody keeps, though its ports are open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.proxy import feature as proxy_feature
from agent.proxy.feature import ProxyFeature
from agent.proxy_files import BOOTSTRAP, LISTENERS
from agent.proxy_states import ABSENT, ENVOY, ProxyState, encode_states
from agent.settings import AgentSettings
from agent.tables import Endpoint, EndpointVerdicts
from meshkit.clock import SystemClock
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener, ProxyPorts
from tests.unit.meshpolicy.policy_world import SERVER, build, policy, port

POD = "10.1.0.5"
STILL = ProxyState(7, True, "Envoy stands still: it answers nothing")


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not what():  # noqa: ASYNC110 - the kernel's list of sockets has no event
            await asyncio.sleep(0.02)


async def test_ports_of_one_that_stands_still_count_as_closed_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_feature, "prepare_stack", lambda: "")  # it is the machine's
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    said, state, is_over = asyncio.Condition(), ProxyState(7), False

    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not is_over:
            writer.write(encode_states({ENVOY: state}))
            async with said:
                await said.wait()
        writer.close()
        await writer.wait_closed()
        told.set()

    ports, clock, told = ProxyPorts(), SystemClock(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        ports.restore({number: Listener(Direction.INGRESS, frozenset((HttpRule("GET"),)))})
        engine = build(proxy_ports=ports)
        engine.set_policy(policy(engine, ingress=[{"toPorts": port("80", rules={"http": [{"method": "GET"}]})}]))
        facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2")
        settings = AgentSettings(local_etcd="none", proxy_directory=str(tmp_path))
        core = await open_core(settings, facts, None, MemoryHost(), clock, envoy=Path("/bin/true"))
        feature = ProxyFeature(core, ports, lambda: None, lambda _requests: None)
        with core.db.write():
            endpoint = Endpoint(POD, 7, 9, "", "", int(SERVER), "default", "server")
            core.db.verdicts.put(EndpointVerdicts(endpoint, engine.endpoint_policy(SERVER)))
        tasks = [asyncio.create_task(task) for task in feature.tasks().values()]
        await until(lambda: list(feature.problems()) == [f"proxy: {ABSENT}"])
        assert feature.failures == {}, "it may work all the same"
        assert {BOOTSTRAP, LISTENERS} <= {path.name for path in (tmp_path / "proxy").iterdir()}
        server = await asyncio.start_unix_server(tell, "proxies.sock")
        await until(lambda: feature.problems() == [])
        state = STILL
        async with said:
            said.notify_all()
        await until(lambda: POD in feature.failures)
        assert STILL.problem in feature.failures[POD]
        state = ProxyState(8)
        async with said:
            said.notify_all()
        await until(lambda: not feature.failures and not feature.problems())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        is_over = True
        async with said:
            said.notify_all()
        await told.wait()
        server.close()
