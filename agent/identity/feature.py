# SPDX-License-Identifier: Apache-2.0
"""Identities of every cluster, as a feature."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature
from agent.identity.writer import IdentityWriter


class IdentityFeature(Feature):
    name = "identity"

    def __init__(self, core: Core) -> None:
        self.writer = IdentityWriter(core.db)
