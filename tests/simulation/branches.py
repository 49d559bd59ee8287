# SPDX-License-Identifier: Apache-2.0
"""Histories in forks of a process that started their worlds once: a start costs as much as half a history.

The first turns of a fork copy what it writes to, which costs as much again, so several histories share one: each in a started
world that no other of them has.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from tests.simulation.credentials import prepare
from tests.simulation.history import Outcome, go_on, start, start_of
from tests.simulation.steps import Step
from tests.simulation.world import Shape, World

FIRST_FORK: Final = 1
"""How many histories share the first fork. Each has twice as many as the one before, for who ends with the first that fails."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One history, by the seed whose start it has."""

    seed: int
    history: Sequence[Step]
    shape: Shape

    @property
    def root(self) -> tuple[int, Shape]:
        """Which started world it begins with."""
        return start_of(self.seed), self.shape


class Branches:
    """Use as a context. A history here takes the same steps as with `run_history`, and may do what it likes to its process."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._started: dict[tuple[int, Shape], tuple[World, dict[Path, bytes]]] = {}

    def __enter__(self) -> Branches:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()
        gc.unfreeze()

    def run(self, seed: int, history: Sequence[Step], shape: Shape) -> Outcome:
        """The outcome of one history."""
        return next(self._fork([Branch(seed, history, shape)]))

    def run_all(self, branches: Iterable[Branch]) -> Iterator[tuple[Branch, Outcome]]:
        """Each with its outcome, in their order."""
        most, group = FIRST_FORK, list[Branch]()
        for branch in branches:
            if len(group) == most or branch.root in {each.root for each in group}:
                yield from zip(group, self._fork(group), strict=True)
                most, group = most * 2, []
            group.append(branch)
        yield from zip(group, self._fork(group), strict=True)

    def _fork(self, group: Sequence[Branch]) -> Iterator[Outcome]:
        """The outcomes of histories that each have a world of their own, in one process. That it ended before it told one is
        a fault of that one, and the next have another process.
        """
        left = list(group)
        while left:
            worlds = [self._world(branch) for branch in left]
            answer, told = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(answer)
                _tell(told, list(zip(worlds, left, strict=True)))
            os.close(told)
            with os.fdopen(answer, "rb") as pipe:
                try:
                    while left and (outcome := _read(pipe)) is not None:
                        yield outcome
                        left.pop(0)
                finally:
                    pipe.close()
                    _, status = os.waitpid(child, 0)
            if left:
                seed = left.pop(0).seed
                yield Outcome([f"the process of seed {seed} ended with status {os.waitstatus_to_exitcode(status)}"])

    def _world(self, branch: Branch) -> World:
        """A started world whose files are as they were after the start."""
        if branch.root not in self._started:
            world = self._open.enter_context(World(*branch.root))
            gc.disable()  # what a world starts with stays
            start(world)
            gc.enable()
            prepare(list(world.clusters))
            self._started[branch.root] = (world, _files(world.folder))
            gc.collect()
            gc.freeze()
        world, files = self._started[branch.root]
        found = _files(world.folder)
        for path in found.keys() - files.keys():
            path.unlink()
        for path, content in files.items():
            if found.get(path) != content:
                path.write_bytes(content)
        return world


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _read(pipe: BinaryIO) -> Outcome | None:
    """The next outcome that a fork told; None if it ended without one."""
    try:
        outcome = pickle.load(pipe)
    except (EOFError, pickle.UnpicklingError):
        return None
    assert isinstance(outcome, Outcome)
    return outcome


def _tell(told: int, work: Sequence[tuple[World, Branch]]) -> None:
    """The child's whole life. It ends early if nobody listens."""
    status = 1
    try:
        gc.disable()  # it ends before there is much to collect
        with os.fdopen(told, "wb") as pipe:
            for world, branch in work:
                world.occupy()
                pickle.dump(go_on(world, branch.seed, branch.history), pipe)
                pipe.flush()
        status = 0
    except BrokenPipeError:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
