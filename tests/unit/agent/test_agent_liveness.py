# SPDX-License-Identifier: Apache-2.0
"""Liveness of peers is a rule."""

from __future__ import annotations

import pytest

from agent.mesh.liveness import Liveness, Signals, decide, is_cache_expired


@pytest.mark.parametrize(
    ("control", "data", "has_probes", "now", "expected"),
    [
        (None, None, True, 100, Liveness.CONNECTED),
        (50, None, True, 1_000, Liveness.FROZEN),
        (50, None, False, 1_000, Liveness.FROZEN),
        (50, 60, False, 1_000, Liveness.FROZEN),
        (50, 60, True, 69, Liveness.FROZEN),
        (50, 60, True, 70, Liveness.WITHDRAWN),
        (95, 60, True, 100, Liveness.FROZEN),
        (None, 60, True, 69, Liveness.CONNECTED),
        (None, 60, True, 70, Liveness.WITHDRAWN),
    ],
)
def test_only_a_peer_without_a_data_path_is_withdrawn_and_only_after_the_bound(
    control: float | None, data: float | None, has_probes: bool, now: float, expected: Liveness
) -> None:
    verdict = decide(now, Signals(control, data, has_probes), 10.0)
    assert verdict.liveness is expected
    assert bool(verdict.reason) == (expected is not Liveness.CONNECTED or data is not None)


def test_the_bound_cannot_be_set_below_three_seconds() -> None:
    assert decide(62.5, Signals(50, 60, True), 0.1).liveness is Liveness.FROZEN
    assert decide(63.0, Signals(50, 60, True), 0.1).liveness is Liveness.WITHDRAWN


def test_a_cache_without_a_lifetime_never_expires() -> None:
    assert not is_cache_expired(1e9, 0.0, 0.0)
    assert not is_cache_expired(59.0, 0.0, 60.0)
    assert is_cache_expired(60.0, 0.0, 60.0)
    assert not is_cache_expired(1e9, None, 60.0)
