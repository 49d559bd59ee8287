# SPDX-License-Identifier: Apache-2.0
"""The second thousand of the histories that CI runs. A file of its own, so that each worker of the tests has one."""

from __future__ import annotations

import pytest

from tests.simulation.command_line import run_thousand


@pytest.mark.timeout(1800)
def test_the_second_thousand_histories_are_well_and_reach_what_is_expected() -> None:
    run_thousand(1001)
