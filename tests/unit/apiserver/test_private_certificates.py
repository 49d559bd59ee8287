# SPDX-License-Identifier: Apache-2.0
"""The private etcd's certificates: whatever this machine's clock said when they were made, and is set to meanwhile."""

from __future__ import annotations

import pytest

from certs.inspect import parse
from clustermesh_apiserver.publish.own_store import make_private_certificates

DAY_S = 86_400.0
HOUR_S = 3_600.0
NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    "wall_s", [HOUR_S, NOW_S - HOUR_S, NOW_S, NOW_S + HOUR_S, NOW_S + 400 * DAY_S, NOW_S + 40 * 365 * DAY_S]
)
def test_they_are_valid_before_the_clock_is_set_right_and_after_and_for_years(wall_s: float) -> None:
    made = make_private_certificates("north", "kube-system")
    for pem in (made.ca, made.server_cert, made.admin_cert):
        (found,) = parse(pem)
        assert found.not_before_s <= wall_s < found.not_after_s
