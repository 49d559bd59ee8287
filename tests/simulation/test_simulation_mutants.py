# SPDX-License-Identifier: Apache-2.0
"""Faults made by hand are found, each by the history that docs/testing.md says, or by one after it: a history is the same
whichever ran before it, so those need not run again.
"""

from __future__ import annotations

import pytest

from agent.loadbalancer import writer
from tests.simulation.command_line import simulate
from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.swap import swap
from tests.simulation.mutants.table import first_histories

MOST = 500


def test_the_table_has_every_fault_made_by_hand() -> None:
    assert first_histories().keys() == MUTANTS.keys()


@pytest.mark.timeout(1800)
def test_every_fault_made_by_hand_is_found_within_500_histories() -> None:
    said = simulate("--mutants", "--known", "--world", "mixed", "--steps", "16", "--count", str(MOST))
    assert said.count("\n") == len(MUTANTS)


def test_a_fault_is_put_where_the_product_decides() -> None:
    """What the product has moved away is not replaced: the mutant would find nothing and say nothing."""
    with pytest.raises(AttributeError, match="sides"):
        swap(writer, "sides", None)
