# SPDX-License-Identifier: Apache-2.0
"""Histories in processes of their own, forked from worlds that were started once: a start costs as much as a history."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.simulation.history import Outcome, go_on, start, start_of
from tests.simulation.steps import Step
from tests.simulation.world import Shape, World


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
        """The outcome of one history; that its process ended without one is a fault."""
        world = self._world(start_of(seed), shape)
        answer, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(answer)
            _tell(told, world, seed, history)
        os.close(told)
        with os.fdopen(answer, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if not said:
            return Outcome([f"the process of seed {seed} ended with status {os.waitstatus_to_exitcode(status)}"])
        outcome = pickle.loads(said)
        assert isinstance(outcome, Outcome)
        return outcome

    def _world(self, number: int, shape: Shape) -> World:
        """A started world whose files are as they were after the start."""
        if (number, shape) not in self._started:
            world = self._open.enter_context(World(number, shape))
            start(world)
            self._started[number, shape] = (world, _files(world.folder))
            gc.collect()
            gc.freeze()
        world, files = self._started[number, shape]
        found = _files(world.folder)
        for path in found.keys() - files.keys():
            path.unlink()
        for path, content in files.items():
            if found.get(path) != content:
                path.write_bytes(content)
        return world


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _tell(pipe: int, world: World, seed: int, history: Sequence[Step]) -> None:
    """The child's whole life."""
    status = 1
    try:
        gc.disable()  # it ends before there is much to collect
        world.occupy()
        outcome = go_on(world, seed, history)
        with os.fdopen(pipe, "wb") as out:
            out.write(pickle.dumps(outcome))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
