# SPDX-License-Identifier: Apache-2.0
"""Every state that a small world can reach, breadth first: what is wrong is found by a shortest history of steps.

A world runs the product's own code. It says which steps are possible, forks, and names its state; states of one name are one
state. What is wrong is printed as the steps that lead there, one per line, which `replay` runs again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar


class SmallWorld(Protocol):
    """What is explored."""

    def fork(self) -> Self:
        """Another world in the same state: steps of one are not seen by the other."""
        ...

    def steps(self) -> Iterable[str]:
        """The steps that are possible now."""
        ...

    def do(self, step: str) -> None:
        """One of them happens."""
        ...

    def key(self) -> Hashable:
        """The state: everything on which later steps and checks depend."""
        ...

    def problem(self) -> str | None:
        """What must never be so, and is; None if nothing is wrong."""
        ...


W = TypeVar("W", bound=SmallWorld)


@dataclass(frozen=True, slots=True)
class _Node:
    parent: int
    step: str


class CounterexampleError(AssertionError):
    """A state that must not be reached, with a shortest history that reaches it."""

    def __init__(self, problem: str, history: tuple[str, ...]) -> None:
        super().__init__("\n".join([problem, "by this history:", *(f"  {step}" for step in history)]))
        self.problem, self.history = problem, history


@dataclass(frozen=True, slots=True)
class Explored:
    """How much was looked at; `deepest` is the longest of the shortest histories."""

    states: int
    steps: int
    deepest: int


def explore(first: W, *, maximum: int, check: Callable[[W], str | None] | None = None) -> Explored:
    """Every reachable state was looked at, and none is wrong; `check` may demand more of a state than the world does.

    Raises: CounterexampleError; AssertionError if there are more states than `maximum`: nothing is left out silently.
    """
    nodes = [_Node(-1, "")]
    known: set[Hashable] = {first.key()}
    queue: deque[tuple[int, W, int]] = deque([(0, first, 0)])
    taken = deepest = 0
    while queue:
        number, world, depth = queue.popleft()
        deepest = max(deepest, depth)
        wrong = world.problem() or (check(world) if check is not None else None)
        if wrong is not None:
            raise CounterexampleError(wrong, tuple(_history(nodes, number)))
        for step in world.steps():
            after = world.fork()
            after.do(step)
            taken += 1
            key = after.key()
            if key in known:
                continue
            known.add(key)
            assert len(known) <= maximum, f"more than {maximum} states: the world is larger than it was meant to be"
            nodes.append(_Node(number, step))
            queue.append((len(nodes) - 1, after, depth + 1))
    return Explored(len(known), taken, deepest)


def replay(world: W, history: Iterable[str]) -> W:
    """The world after these steps. Raises: AssertionError where one of them is not possible."""
    for step in history:
        assert step in world.steps(), f"{step} is not possible: {', '.join(world.steps())}"
        world.do(step)
    return world


def _history(nodes: list[_Node], number: int) -> Iterator[str]:
    found = []
    while number > 0:
        found.append(nodes[number].step)
        number = nodes[number].parent
    yield from reversed(found)
