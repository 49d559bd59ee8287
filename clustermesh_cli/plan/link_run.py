# SPDX-License-Identifier: Apache-2.0
"""One run of connecting or parting clusters: what it does next, given what came of what it did. Pure.

Others may write the same objects meanwhile. A write that collides is decided anew, and the run is only done once it looked at
everything after its last write and found it as its steps want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from clustermesh_cli.plan.link_change import LinkChange, LinkStep, Objects, Settled, next_change, plan_changes

MAX_COLLISIONS: Final = 20
MAX_UNDONE: Final = 1
"""How often a run writes again what somebody else undid after it was all there: who wants the opposite is not fought."""

DecideSteps = Callable[[], Iterable[LinkStep]]
"""What the clusters must come to say, as they are now."""


class LinkMove(StrEnum):
    """LOOK at all objects and decide the steps again; WRITE the change; DONE when all is as wanted; GIVE_UP when others never
    stop writing something else."""

    LOOK = "look"
    WRITE = "write"
    DONE = "done"
    GIVE_UP = "give-up"


def contexts_of(steps: Iterable[LinkStep]) -> tuple[str, ...]:
    """The clusters that the steps concern."""
    return tuple(dict.fromkeys(step.context for step in steps))


@dataclass(frozen=True, slots=True)
class LinkRun:
    """How far a run is; every verb returns the run after it. `begun` are the changes to take back if it fails, oldest first."""

    steps: Sequence[LinkStep] = ()
    objects: Objects | None = None
    is_looked: bool = False
    begun: tuple[LinkChange, ...] = ()
    collisions: int = 0
    undone: int = 0
    settled: Settled = field(default_factory=Settled, compare=False, repr=False)
    """What is known of these steps already; changes no decision."""

    def next_move(self) -> tuple[LinkMove, LinkChange | None]:
        """What to do now. Raises: CommandRefusedError if an object that `enable` makes is missing."""
        if self.collisions > MAX_COLLISIONS or self.undone > MAX_UNDONE:
            return LinkMove.GIVE_UP, None
        if self.objects is None:
            return LinkMove.LOOK, None
        change = next_change(self.steps, self.objects, self.settled)
        if change is not None:
            return LinkMove.WRITE, change
        return (LinkMove.DONE if self.is_looked else LinkMove.LOOK), None

    def looked(self, steps: Iterable[LinkStep], objects: Objects) -> LinkRun:
        """All objects were read, and the steps decided again.

        Raises: CommandRefusedError for what cannot be carried through, before the first write.
        """
        steps = tuple(steps)
        is_undone = bool(plan_changes(steps, objects)) and self.objects is not None
        return replace(
            self, steps=steps, objects=objects, settled=Settled(), is_looked=True, undone=self.undone + is_undone
        )

    def begin(self, change: LinkChange) -> LinkRun:
        """The change is about to be written: one whose answer is lost may have been made."""
        return replace(self, begun=(*self.begun, change), is_looked=False)

    def wrote(self, change: LinkChange, after: Mapping[str, Any]) -> LinkRun:
        """The change was made; the object is what it says after it."""
        return replace(self, objects={**(self.objects or {}), (change.context, change.name): after})

    def collided(self) -> LinkRun:
        """The change begun last was not made: somebody else wrote the object, and may have changed what it should say."""
        return replace(self, objects=None, begun=self.begun[:-1], collisions=self.collisions + 1)

    def is_finished_by_others(self, change: LinkChange, now: Objects) -> bool:
        """Whether a run that could not write everything finds, before it takes a write back, that the link is whole and in part
        somebody else's: they rely on all of it.

        A run that wrote everything takes it back: what failed is the proof that it works.
        """
        if self.objects is None or next_change(self.steps, self.objects) is None:
            return False
        steps = [step for step in self.steps if step.link == change.link]
        parts = [step for step in steps if now.get((step.context, step.name)) is not None]
        is_ours = sum(begun.link == change.link for begun in self.begun) >= len(parts)
        return not is_ours and next_change(steps, now) is None
