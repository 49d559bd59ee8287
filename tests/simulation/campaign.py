# SPDX-License-Identifier: Apache-2.0
"""Many histories: how far they came, in a file from which they go on, and what they came to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshkit.atomic import write_atomic
from tests.simulation.history import Outcome
from tests.simulation.shrink import kind_of


@dataclass(slots=True)
class Progress:
    """`done` histories were run, in the order of their seeds; `failed` is what was wrong first, by seed."""

    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)

    def note(self, seed: int, outcome: Outcome) -> None:
        self.done += 1
        self.reached.update(outcome.reached)
        if outcome.faults:
            self.failed[seed] = outcome.faults[0]

    def summary(self) -> str:
        """What was reached and how often; and each kind of failure with its first seed."""
        lines = [f"{count:9} {what}" for what, count in sorted(self.reached.items())]
        kinds: dict[str, list[int]] = {}
        for seed, fault in self.failed.items():
            kinds.setdefault(kind_of(fault), []).append(seed)
        lines += [f"{len(seeds):9} failed, first seed {seeds[0]}: {kind}" for kind, seeds in sorted(kinds.items())]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Campaign:
    """The seeds of one world; a file of another campaign is refused."""

    world: str
    steps: int
    seeds: range

    def left(self, progress: Progress) -> Iterable[int]:
        return self.seeds[progress.done :]

    def save(self, path: Path, progress: Progress) -> None:
        """The file holds all that is known, whenever the program ends."""
        kept = {
            "campaign": self._facts(),
            "done": progress.done,
            "failed": progress.failed,
            "reached": dict(progress.reached),
        }
        write_atomic(path, json.dumps(kept, indent=1).encode())

    def load(self, path: Path) -> Progress:
        """How far it came; nowhere if there is no file yet. Raises: ValueError for the file of another campaign."""
        if not path.exists():
            return Progress()
        kept: dict[str, Any] = json.loads(path.read_bytes())
        if kept["campaign"] != self._facts():
            raise ValueError(
                f"{path} is of {kept['campaign']}, not of {self._facts()}: name another file, or remove it"
            )
        failed = {int(seed): fault for seed, fault in kept["failed"].items()}
        return Progress(kept["done"], failed, Counter(kept["reached"]))

    def _facts(self) -> dict[str, Any]:
        return {"world": self.world, "steps": self.steps, "first": self.seeds.start, "count": len(self.seeds)}
