# SPDX-License-Identifier: Apache-2.0
"""What must hold in a simulated mesh: a function each, called with the world, that says in a sentence what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tests.simulation.checks.addresses import OwnAddresses, UnknownIsNobody, check_addresses
from tests.simulation.checks.connections import EstablishedConnections
from tests.simulation.checks.identities import check_identities
from tests.simulation.checks.memory import BoundedPeers, check_memory
from tests.simulation.checks.peers import check_peers
from tests.simulation.checks.policies import SettledVerdicts, check_policies
from tests.simulation.checks.programs import check_programs
from tests.simulation.checks.records import check_records
from tests.simulation.checks.services import check_services
from tests.simulation.checks.steady import StableIds, SteadyBackends, SteadyPeers
from tests.simulation.checks.told import check_told
from tests.simulation.checks.twin import check_against_fresh_builds
from tests.simulation.world import World

Checker = Callable[[World], Iterable[str]]


def always(world: World) -> Sequence[Checker]:
    """Called after every step; those that remember are made for one world."""
    remembering = (
        SteadyBackends(world),
        SteadyPeers(world),
        StableIds(world),
        SettledVerdicts(world),
        OwnAddresses(world),
        UnknownIsNobody(world),
        EstablishedConnections(world),
        BoundedPeers(),
    )
    return (check_programs, *remembering)


def at_rest() -> Sequence[Checker]:
    """Called when faults are over and programs had time to catch up."""
    return (
        check_services,
        check_addresses,
        check_identities,
        check_policies,
        check_records,
        check_memory,
        check_peers,
        check_told,
    )


__all__ = ["Checker", "always", "at_rest", "check_against_fresh_builds"]
