# SPDX-License-Identifier: Apache-2.0
"""Identities of every cluster, as a feature."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature
from agent.identity.rows import identity_rows
from agent.identity.writer import IdentityWriter
from meshapi.agent import IdentityRow
from meshkit.rest import Rest


class IdentityFeature(Feature):
    name = "identity"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.writer = IdentityWriter(core.db)

    def add_routes(self, rest: Rest) -> None:
        @rest.get("/v1/identities", list[IdentityRow], tag="tables")
        async def identities(label: str = "") -> list[IdentityRow]:
            """Identities of every cluster; `label` keeps those with a label that contains it."""
            return identity_rows(self._core.db, label)
