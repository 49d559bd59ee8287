# SPDX-License-Identifier: Apache-2.0
"""The first half of the histories that CI runs. A file of its own, so that each worker of the tests has one."""

from __future__ import annotations

import pytest

from tests.simulation.command_line import run_half


@pytest.mark.timeout(1800)
def test_the_first_half_of_histories_is_well_and_reaches_what_is_expected() -> None:
    run_half(1)
