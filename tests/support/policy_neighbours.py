# SPDX-License-Identifier: Apache-2.0
"""What the policy feature needs of others, where a test has none of them or only the address writer."""

from __future__ import annotations

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.policy.feature import Neighbours
from agent.tables import AgentDB


def neighbours(db: AgentDB, prefixes: PrefixWriter | None = None) -> Neighbours:
    """Every address counts as written at once; without a writer of addresses nothing of them is written ever."""
    addresses, identities = prefixes or PrefixWriter(db), IdentityWriter(db)
    return Neighbours(
        addresses.set_policy_prefixes,
        addresses.set_node_identities,
        lambda: True,
        identities.set_identity,
        identities.delete_identity,
        lambda: prefixes is not None,
    )
