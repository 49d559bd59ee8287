# SPDX-License-Identifier: Apache-2.0
"""`clustermesh observe` and `clustermesh flows` against an observer: output, what goes where, exit codes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry, Lost
from tests.integration.flows.flow_world import FlowWorld, entry
from tests.support.flow_entries import S


async def run(world: FlowWorld, *words: str, server: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("clustermesh"), *words, "--server", server or f"unix://{world.path}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_flows_are_printed_in_every_form(world: FlowWorld) -> None:
    world.flows.extend([entry(1, "a"), entry(2, "b"), Lost(3 * S, pb.PERF_EVENT_RING_BUFFER, 9, 1)])
    seen = "Jan  1 00:00:02.000: b (unknown) <> 10.0.0.2 (unknown) to-stack FORWARDED ()"
    lost = "Jan  1 00:00:03.000 EVENTS LOST: PERF_EVENT_RING_BUFFER CPU(1) 9"
    assert await run(world, "observe", "--pod", "b") == (0, f"{seen}\n{lost}\n", "")
    code, out, _ = await run(world, "observe", "--not", "--pod", "b", "-o", "dict", "--numeric")
    assert (code, out.splitlines()[-1]) == (0, lost)
    assert "     SOURCE: 10.0.0.1\nDESTINATION: 10.0.0.2\n       TYPE: to-stack\n" in out


async def test_status_and_namespaces_are_printed_and_an_observer_knows_no_nodes(world: FlowWorld) -> None:
    world.flows.extend([entry(1)])
    world.flows.note_namespaces([("north", "default")], world.clock.monotonic())
    code, out, _ = await run(world, "flows", "status")
    assert (code, out.splitlines()) == (
        0, [f"Healthcheck (via unix://{world.path}): Ok", "Current/Max Flows: 1/1,023 (0.10%)", "Flows/s: 0.00"],
    )  # fmt: skip
    assert await run(world, "flows", "list", "namespaces") == (0, "NAMESPACE   CLUSTER\ndefault     north\n", "")
    code, out, err = await run(world, "flows", "list", "namespaces", "-o", "json")
    document = {"schema": 1, "namespaces": [{"cluster": "north", "namespace": "default"}]}
    assert (code, orjson.loads(out), err) == (0, document, "")
    code, out, err = await run(world, "flows", "list", "nodes")
    assert (code, out) == (1, "")
    assert "UNIMPLEMENTED: an observer knows its own node only; ask a relay" in err


async def test_agent_events_and_flows_in_json_are_one_message_a_line(world: FlowWorld) -> None:
    world.flows.extend([entry(1)])
    world.events.extend([FlowEntry(S, None, None, pb.AgentEvent(type=pb.AGENT_STARTED).SerializeToString())])
    code, out, _ = await run(world, "observe", "-o", "json")
    assert (code, orjson.loads(out)["flow"]["source"]) == (0, {"pod_name": "a"})
    code, out, _ = await run(world, "observe", "agent-events")
    assert (code, orjson.loads(out)["agent_event"]) == (0, {"type": "AGENT_STARTED"})


async def test_no_answer_is_one_line_and_a_code(world: FlowWorld) -> None:
    code, out, err = await run(world, "observe", "--timeout", "0.5", server="unix:///nowhere")
    assert (code, out) == (1, "")
    assert err.startswith("Error: unix:///nowhere: UNAVAILABLE: ")
    assert err.count("\n") == 1
    code, _, err = await run(world, "observe", "--http-path", "(")
    assert (code, err) == (2, "Error: http_path: '(' is no RE2 expression: missing ): (\n")
    code, _, err = await run(world, "observe", server="ftp://x")
    assert code == 2
    assert "expected host:port" in err


async def test_a_server_that_is_not_there_is_named(world: FlowWorld) -> None:
    code, out, err = await run(world, "flows", "status", server="localhost:4245")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("Error: localhost:4245: ")
