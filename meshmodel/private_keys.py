# SPDX-License-Identifier: Apache-2.0
"""Where a cluster tells its own agents, and nobody else, what peers must not know: records of namespaces that are not global.

Below a root of ours that no reader of Cilium's keys looks at; the same shapes as below `cilium/state/`. A kind's private
canary is written before its public one, so that who has seen the public one knows whether there is a private part.
"""

from __future__ import annotations

from typing import Final

from meshmodel.keys import STATE, Kind
from meshmodel.keys import prefix_of as public_prefix_of

PRIVATE: Final = b"clustermesh/private/"
SYNCED: Final = PRIVATE + b"synced/"
PRIVATE_KINDS: Final = (Kind.IDENTITIES, Kind.IPS)


def prefix_of(kind: Kind) -> bytes:
    """What an agent lists and watches of its own cluster besides the public records of this kind."""
    return PRIVATE + public_prefix_of(kind, "").removeprefix(STATE)


def canary_key(kind: Kind) -> bytes:
    """The key that says: every private record of this kind that was there at the start is written."""
    return SYNCED + kind.value.encode() + b"/v1"
