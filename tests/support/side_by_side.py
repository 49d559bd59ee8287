# SPDX-License-Identifier: Apache-2.0
"""Which tests one worker of pytest-xdist runs together: those of a file, as they share fixtures, and all that share one lab."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

ONE_LAB: Final = "tests/integration/lab/"


class BySharedFixtures(LoadScopeScheduling):
    """Hands out whole files, and the folder whose tests share one lab as if it were a file."""

    def _split_scope(self, nodeid: str) -> str:
        return ONE_LAB if nodeid.startswith(ONE_LAB) else nodeid.partition("::")[0]
