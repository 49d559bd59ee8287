# SPDX-License-Identifier: Apache-2.0
"""The service maps grow with the node, and with nothing else."""

from __future__ import annotations

import pytest

from agent.datapath import spec
from agent.datapath.sizes import GIB, LARGEST, SMALLEST, service_map_sizes


@pytest.mark.parametrize(
    ("memory_gib", "entries"),
    [(0, SMALLEST), (1, SMALLEST), (8, 1 << 19), (15.9, 1 << 19), (16, 1 << 20), (31, 1 << 20), (4096, LARGEST)],
)
def test_entries_follow_the_memory_of_the_node(memory_gib: float, entries: int) -> None:
    sizes = service_map_sizes(0, int(memory_gib * GIB))
    ipv4 = {name: size for name, size in sizes.items() if not name.endswith("6")}
    assert ipv4 == {spec.SERVICES.name: entries, spec.MEMBERS.name: entries, spec.BACKENDS.name: entries}


def test_100_000_services_of_five_backends_fit_on_16_gib() -> None:
    sizes = service_map_sizes(0, 16 * GIB)
    assert sizes[spec.SERVICES.name] >= 100_000 * 6
    assert sizes[spec.MEMBERS.name] >= 500_000
    assert sizes[spec.BACKENDS.name] >= 500_000


def test_what_is_set_goes_before_what_memory_allows() -> None:
    assert service_map_sizes(1000, 64 * GIB)[spec.SERVICES.name] == 1000


def test_entries_of_ipv6_are_as_many_as_wanted_whatever_memory_there_is() -> None:
    sizes = service_map_sizes(0, 64 * GIB, 1000)
    ipv6 = {name: size for name, size in sizes.items() if name.endswith("6")}
    assert ipv6 == {spec.SERVICES6.name: 1000, spec.MEMBERS6.name: 1000, spec.BACKENDS6.name: 1000}
