# SPDX-License-Identifier: Apache-2.0
"""Keys of records that only the cluster's own agents may read: those of namespaces that are not global.

They stand below a root of ours that no reader of Cilium's keys looks at, in the same shapes as below `cilium/state/`.
The private canary of a kind is written before its public canary, so a reader that has seen the public canary knows
whether there are private records.
"""

from __future__ import annotations

from typing import Final

from meshmodel.keys import STATE, Kind, Place
from meshmodel.keys import locate as locate_public
from meshmodel.keys import prefix_of as public_prefix_of

ROOT: Final = b"clustermesh/"
PRIVATE: Final = b"clustermesh/private/"
SYNCED: Final = PRIVATE + b"synced/"
PRIVATE_KINDS: Final = (Kind.IDENTITIES, Kind.IPS)


def prefix_of(kind: Kind) -> bytes:
    """What an agent lists and watches of its own cluster besides the public records of this kind."""
    return PRIVATE + public_prefix_of(kind, "").removeprefix(STATE)


def canary_key(kind: Kind) -> bytes:
    """The key that says: every private record of this kind that was there at the start is written."""
    return SYNCED + kind.value.encode() + b"/v1"


def locate(key: bytes) -> Place | None:
    """Where a private record's key points, or None for any other key. Raises: RecordError (bad-key)."""
    return locate_public(STATE + key.removeprefix(PRIVATE)) if key.startswith(PRIVATE) else None
