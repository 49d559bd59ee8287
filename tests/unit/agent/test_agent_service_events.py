# SPDX-License-Identifier: Apache-2.0
"""What a service's owner is told as an Event: once, and again only when it is something else."""

from __future__ import annotations

from agent.loadbalancer.events import MAX_EVENTS_A_ROUND, ServiceEvents
from agent.tables import AgentDB, ServiceProblems
from kube.client import KubeClient
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName


class World:
    def __init__(self) -> None:
        self.db = AgentDB(ClusterName("north"), ClusterId(1))
        self.events = ServiceEvents(self.db, KubeClient.__new__(KubeClient), ManualClock())

    def problem(self, name: str, *texts: str) -> None:
        with self.db.write():
            if texts:
                self.db.service_problems.put(ServiceProblems(ServiceName("test", name), "u", texts))
            else:
                self.db.service_problems.delete(ServiceName("test", name))

    def told(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is told of what stands."""
        assert not self.events.take()
        return self.told_now()

    def told_now(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(row.service.name, row.problems) for row in self.events.take()]


def test_a_problem_is_told_once_and_again_when_it_changes() -> None:
    world = World()
    world.problem("a", "x")
    assert world.told() == [("a", ("x",))]
    assert world.told() == []
    world.problem("a")
    world.problem("a", "x")
    assert world.told() == []
    world.problem("a", "x", "y")
    assert world.told() == [("a", ("x", "y"))]


def test_a_problem_that_went_and_came_back_is_told_again() -> None:
    world = World()
    world.problem("a", "x")
    world.told()
    world.problem("a")
    assert world.told() == []
    world.problem("a", "x")
    assert world.told() == [("a", ("x",))]


def test_many_problems_are_told_in_rounds() -> None:
    world = World()
    for number in range(MAX_EVENTS_A_ROUND + 5):
        world.problem(f"s{number:03}", "x")
    assert len(world.told()) == MAX_EVENTS_A_ROUND
    assert len(world.told_now()) == 5
    assert world.told_now() == []


def test_a_problem_of_a_moment_is_told_to_nobody() -> None:
    """Nor is one that another follows at once: the last one is, alone."""
    world = World()
    world.problem("a", "x")
    world.problem("b", "x")
    assert world.told_now() == []
    world.problem("a")
    world.problem("b", "y")
    assert world.told_now() == []
    assert world.told_now() == [("b", ("y",))]
