# SPDX-License-Identifier: Apache-2.0
"""Which tests one worker of pytest-xdist runs together: those of a file, and of a folder whose files share what is made once."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

SHARING: Final = ("tests/integration/lab/", "tests/integration/devkube/")
"""Folders with a lab, or a server, for all their files: a second one costs time, or meets the first one's objects."""


class BySharedFixtures(LoadScopeScheduling):
    """Hands out whole files, and the folders whose files share fixtures as if each were one file."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """What is handed to one worker whole."""
    return next((folder for folder in SHARING if nodeid.startswith(folder)), nodeid.partition("::")[0])
