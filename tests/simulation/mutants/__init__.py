# SPDX-License-Identifier: Apache-2.0
"""Faults made by hand, one for each thing that must hold: histories that do not find them are worth nothing.

A mutant puts a wrong decision in the place of the product's for as long as the process lives. Where the product has two guards
for one thing, the mutant takes both away. `python -m tests.simulation --mutant NAME --world WORLD` looks for a history that
fails; docs/testing.md says in which world, and how many it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests.simulation.mutants import of_peers, of_policies, of_programs, of_services

MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    **of_services.MUTANTS,
    **of_policies.MUTANTS,
    **of_peers.MUTANTS,
    **of_programs.MUTANTS,
}

__all__ = ["MUTANTS"]
