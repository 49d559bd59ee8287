# SPDX-License-Identifier: Apache-2.0
"""A connection through a service may say nothing for longer than a connection that never got an answer is remembered.

So it may while the agents of its nodes are killed and replaced. Both silences pass at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.faults import kill, processes_of, wait_for_restart
from e2e.mesh import CLUSTERS, SYSTEM, Mesh, is_ready, wait_until
from e2e.patient import CLIENT, patient_servers
from e2e.policies import Place, in_pod

SILENCES_S: Mapping[str, int] = {"tion": 75, "koornacht": 110}
"""By the client's cluster. The agents of koornacht do not live as long as its connections."""
CONNECTIONS = 12
SILENT = f"""{CLIENT}
made = [connect() for _ in range({CONNECTIONS})]
before = [ask(one) for one in made]
print("asked", flush=True)
time.sleep(SILENCE_S)
for one, first in zip(made, before):
    try:
        print(first, ask(one), flush=True)
    except OSError as exc:
        print(first, type(exc).__name__, flush=True)
"""
AGENTS = "k8s-app=clustermesh-agent"
Pairs = Sequence[Sequence[str]]
"""Who answered each connection before the silence, and after it."""


def _script(silence_s: int) -> str:
    return SILENT.replace("SILENCE_S", str(silence_s))


def _both_answer(mesh: Mesh, place: Place) -> bool:
    with in_pod(mesh, place, _script(0)) as lines:
        wait_until("every connection is answered", lambda: len(lines()) == CONNECTIONS + 1)
        return {line.split()[0] for line in lines()[1:]} == set(CLUSTERS)


def _agents(mesh: Mesh) -> list[Any]:
    """Of the nodes that have a client, or one of the servers."""
    pods = [*mesh.pods("koornacht", "name=x-wing"), *mesh.pods("koornacht", "name=patient")]
    nodes = {pod["spec"]["nodeName"] for pod in pods}
    return [agent for agent in mesh.pods("koornacht", AGENTS, SYSTEM) if agent["spec"]["nodeName"] in nodes]


def _kill_agents(mesh: Mesh) -> None:
    agents = _agents(mesh)
    kill([pid for agent in agents for pid in processes_of(mesh, agent)])
    for agent in agents:
        wait_for_restart(mesh, "koornacht", agent, 45.0)


def _replace_agents(mesh: Mesh) -> None:
    before = {agent["metadata"]["name"]: agent["metadata"]["uid"] for agent in _agents(mesh)}
    mesh.kubectl("koornacht", "delete", "pods", "-n", SYSTEM, *before)

    def are_replaced() -> bool:
        ready = {agent["metadata"]["uid"] for agent in _agents(mesh) if is_ready(agent)}
        return len(ready) == len(before) and ready.isdisjoint(before.values())

    mesh.wait_until("other agents are ready on these nodes", are_replaced, 60.0)


@pytest.fixture(scope="module")
def answers(mesh: Mesh) -> Iterator[Mapping[str, Pairs]]:
    """By the client's cluster; both clusters run the server behind one global service."""
    with patient_servers(mesh), ExitStack() as stack:
        places = {cluster: Place(cluster, mesh.pod(cluster, "x-wing")[0]) for cluster in SILENCES_S}
        for place in places.values():
            mesh.wait_until("both clusters answer", lambda place=place: _both_answer(mesh, place))
        said = {
            cluster: stack.enter_context(in_pod(mesh, places[cluster], _script(silence_s)))
            for cluster, silence_s in SILENCES_S.items()
        }
        for lines in said.values():
            mesh.wait_until("every connection is answered", lambda lines=lines: lines() == ["asked"])
        _kill_agents(mesh)
        _replace_agents(mesh)
        assert said["koornacht"]() == ["asked"], "both happened during the silence"
        for cluster, lines in said.items():
            limit_s = SILENCES_S[cluster] + 15 * CONNECTIONS
            wait_until("the silence is over", lambda lines=lines: len(lines()) == CONNECTIONS + 1, limit_s)
        yield {cluster: [line.split() for line in lines()[1:]] for cluster, lines in said.items()}
    mesh.expect_whole()


def _expect_the_same(pairs: Pairs) -> None:
    assert {before for before, _ in pairs} == set(CLUSTERS)
    assert [after for _, after in pairs] == [before for before, _ in pairs]


def test_a_connection_silent_for_75_seconds_is_answered_by_the_same_backend(answers: Mapping[str, Pairs]) -> None:
    _expect_the_same(answers["tion"])


def test_connections_silent_while_agents_are_killed_and_replaced_are_answered_by_the_same_backends(
    answers: Mapping[str, Pairs],
) -> None:
    _expect_the_same(answers["koornacht"])
