# SPDX-License-Identifier: Apache-2.0
"""The walkthrough on paper: each step, what was typed, what came back, and whether it is what the text says."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 160
LINES: Final = 14


class MismatchError(Exception):
    """A step did not show what the walkthrough says."""


@dataclass(slots=True)
class Transcript:
    """Prints as it goes; counts what was right."""

    steps: int = 0
    checks: int = 0

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{self.steps:2}. {title}", flush=True)

    def typed(self, tab: str, command: str) -> None:
        print(f"    [{tab}] $ {command}", flush=True)

    def came_back(self, text: str) -> None:
        for line in condensed(text):
            print(f"        {line}", flush=True)

    def note(self, text: str) -> None:
        print(f"        ({text})", flush=True)

    def judge(self, problems: list[str], right: str) -> None:
        """OK, or the end. Raises: MismatchError."""
        if problems:
            print(f"    MISMATCH {'; '.join(problems)}", flush=True)
            raise MismatchError("; ".join(problems))
        self.checks += 1
        print(f"    OK {right}", flush=True)


def condensed(text: str, limit: int = LINES) -> list[str]:
    """The lines, equal neighbours and equal answers counted instead of repeated, at most so many."""
    lines = [line.rstrip()[:WIDTH] for line in text.splitlines() if line.strip()]
    if any('"Cluster"' in line or line.startswith("curl: (") for line in lines):
        counted: dict[str, int] = {}
        for line in lines:
            # one millisecond more or less makes no other answer
            key = "curl: (28) timed out" if line.startswith("curl: (28)") else line
            counted[key] = counted.get(key, 0) + 1
        lines = [f"{count:3} x {line}" if count > 1 else line for line, count in counted.items()]
    else:
        groups = [(line, len(list(group))) for line, group in itertools.groupby(lines)]
        lines = [f"{line}   (x {count})" if count > 1 else line for line, count in groups]
    if len(lines) > limit:
        return [*lines[: limit - 1], f"... {len(lines) - limit + 1} more lines"]
    return lines
