# SPDX-License-Identifier: Apache-2.0
"""How many examples property tests try: `HYPOTHESIS_PROFILE` is `dev` (default), `ci` (always the same ones) or `thorough`.

A test says how many examples it wants with `examples`, so that `thorough` can multiply them.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

THOROUGH: Final = 20
# a loaded machine is slow, and a strategy for whole worlds large: neither is a fault of what is tested
_common = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("dev", _common, print_blob=True)
settings.register_profile("ci", _common, print_blob=True, derandomize=True)
settings.register_profile("thorough", _common, print_blob=True)
PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")


def load_profile() -> None:
    """Every property test runs with the chosen profile."""
    settings.load_profile(PROFILE)


def examples(count: int) -> int:
    """The number of examples to try where `count` is enough for every day."""
    return count * THOROUGH if PROFILE == "thorough" else count
