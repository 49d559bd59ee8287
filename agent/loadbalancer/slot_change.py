# SPDX-License-Identifier: Apache-2.0
"""What the slots of a frontend gain and lose. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

from agent.loadbalancer.slots import FEW, arrange, replace_few
from agent.tables import Target


class SlotChange(NamedTuple):
    """Slots that backends get and lose, and which of the backends had none before (`joined`) and have none after (`left`).

    `is_single`: no backend stands in two slots, before or after.
    """

    gained: Sequence[Target]
    lost: Sequence[Target | None]
    joined: Sequence[Target]
    left: Sequence[Target | None]
    is_single: bool = False


def rearranged(old: Sequence[Target | None], new: Sequence[Target], change: SlotChange) -> list[Target]:
    """The slots after a change that is not none; as many as possible are left as they are."""
    if change.is_single and None not in change.lost and len(change.gained) + len(change.lost) <= FEW:
        return replace_few(
            cast("Sequence[Target]", old), len(new), change.gained, cast("Sequence[Target]", change.lost)
        )
    return arrange(old, new)


def changed_targets(old: Sequence[Target | None], new: Sequence[Target]) -> SlotChange:
    """What a list of slots gains and loses, slot by slot: a backend may stand in several."""
    if not old:
        once = dict.fromkeys(new)
        return SlotChange(new, (), new if len(once) == len(new) else list(once), ())
    before, after = set(old), set(new)
    if len(before) == len(old) and len(after) == len(new):
        more, less = after - before, before - after
        gained = [t for t in new if t in more] if more else []
        lost = [t for t in old if t in less] if less else []
        return SlotChange(gained, lost, gained, lost, True)
    had, has = Counter[Target | None](old), Counter[Target | None](new)
    gained, lost = [t for t in (has - had).elements() if t is not None], list((had - has).elements())
    joined, left = (t for t in gained if t not in before), (t for t in lost if t not in after)
    return SlotChange(gained, lost, list(dict.fromkeys(joined)), list(dict.fromkeys(left)))
