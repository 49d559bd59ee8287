# SPDX-License-Identifier: Apache-2.0
"""Which ports of a node connections of outsiders go on from: beside those of its own connections."""

from __future__ import annotations

import pytest

from agent.datapath.nat_ports import ports_beside


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [
        (32768, 60999, 1024, 32767),
        (1024, 32767, 32768, 65535),
        (10000, 20000, 20001, 65535),
        (1024, 64000, 64001, 65535),
        (1, 64000, 64001, 65535),
        (1024, 65535, 1024, 65535),
        (1500, 65000, 1024, 65535),
        (0, 65535, 1024, 65535),
        (65535, 65535, 1024, 65534),
    ],
)
def test_the_larger_range_beside_the_nodes_own_is_taken_unless_it_is_too_small(
    low: int, high: int, first: int, last: int
) -> None:
    found = ports_beside(low, high)
    assert (found.first, found.first + found.count - 1) == (first, last)
