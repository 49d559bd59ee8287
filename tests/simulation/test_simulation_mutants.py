# SPDX-License-Identifier: Apache-2.0
"""Faults made by hand are found: those that a few histories suffice for. docs/testing.md has all of them."""

from __future__ import annotations

import pytest

from tests.simulation.test_simulation_histories import simulate

FEW: dict[str, str] = {
    "heads-first": "small",
    "deselected-is-gone": "careless",
    "shared-ignored": "careless",
    "edited-rule-keeps-its-peers": "policies",
    "revision-stays": "policies",
    "denial-is-no-rule": "policies",
    "new-identity-unheard": "policies",
    "group-change-unheard": "policies",
    "peer-claims-everything": "hostile",
    "node-claims-believed": "hostile",
    "address-of-the-first-name": "hostile",
    "lease-loss-unheard": "faulty",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", FEW)
def test_a_fault_made_by_hand_is_found(mutant: str) -> None:
    assert "found by history" in simulate("--mutant", mutant, "--world", FEW[mutant], "--count", "60")
