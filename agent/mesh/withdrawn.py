# SPDX-License-Identifier: Apache-2.0
"""What rows of one cluster were given up for, so that their records are asked for again when it is over. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.mesh.blocks import Block, BlockIndex
from agent.mesh.held_records import MAXIMUM_RECORDS
from agent.mesh.networks import EVERYTHING
from meshmodel.keys import Kind


class Withdrawn:
    """Networks that others claim, and the kinds of the records whose rows went for it."""

    def __init__(self) -> None:
        self._kinds: BlockIndex[Kind] = BlockIndex()

    def remember(self, block: Block, kind: Kind) -> None:
        """A row went. Beyond what can be told apart, any claim that is given up counts."""
        for each in (block,) if len(self._kinds) < MAXIMUM_RECORDS else EVERYTHING:
            self._kinds.add(each, kind)

    def given_back(self, freed: Sequence[Block]) -> frozenset[Kind]:
        """Kinds of records to list again: claims on these networks were given up now."""
        if not len(self._kinds):
            return frozenset()
        found = {pair for block in freed for pair in self._kinds.overlapping(block)}
        for block, kind in found:
            self._kinds.discard(block, kind)
        return frozenset(kind for _, kind in found)
