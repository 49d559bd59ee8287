# SPDX-License-Identifier: Apache-2.0
"""The address ranges that an endpoint's own rules name: they have room in its policy before those of other policies. Pure."""

from __future__ import annotations

from typing import Final

from meshmodel.identity import NumericIdentity
from meshpolicy import EndpointPolicy, Engine, Policy, PolicyRef
from meshpolicy.reference import PolicyKind

ENTRIES_PER_POD: Final = 16_384
_RULES: Final = PolicyRef(PolicyKind.BUILT_IN, "", "rules")


def own_ranges(engine: Engine, identity: NumericIdentity, policy: EndpointPolicy, most: int) -> frozenset[int]:
    """The identities of these ranges; none where the policy has no more than so many entries, since all have room then."""
    if policy.size <= most:
        return frozenset()
    known = engine.prefixes()
    found = engine.ranges_of(Policy(_RULES, engine.rules_of(identity)))
    return frozenset(int(known[text]) for prefix in found if (text := str(prefix)) in known)
