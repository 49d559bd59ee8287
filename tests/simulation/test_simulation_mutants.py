# SPDX-License-Identifier: Apache-2.0
"""Faults made by hand are found: those that a few histories suffice for. docs/testing.md has all of them."""

from __future__ import annotations

from typing import Final

import pytest

from agent.loadbalancer import writer
from tests.simulation.command_line import simulate
from tests.simulation.mutants.swap import swap

FEW: Final = {
    "heads-first": "mixed",
    "affinity-swapped": "mixed",
    "shared-ignored": "mixed",
    "canary-ignored": "faulty",
    "endpoint-ids-anew": "faulty",
    "failed-write-is-done": "faulty",
    "listing-again-forgets": "faulty",
    "refused-stay": "mixed",
    "deselected-is-gone": "mixed",
    "denial-is-no-rule": "mixed",
    "unknown-is-world": "mixed",
    "peer-claims-everything": "mixed",
    "taken-back-is-counted": "mixed",
    "move-unheard": "mixed",
}
"""Each with a world whose first histories find it."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mutant", "world"), FEW.items())
def test_a_fault_made_by_hand_is_found(mutant: str, world: str) -> None:
    words = ("--world", world, "--steps", "16", "--count", "100")
    assert "found by history" in simulate("--mutant", mutant, *words)


def test_a_fault_is_put_where_the_product_decides() -> None:
    """What the product has moved away is not replaced: the mutant would find nothing and say nothing."""
    with pytest.raises(AttributeError, match="sides"):
        swap(writer, "sides", None)
