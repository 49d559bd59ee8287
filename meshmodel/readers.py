# SPDX-License-Identifier: Apache-2.0
"""Which keys of a cluster's store each kind of reader may read.

The facade's grants and etcd's own roles are both made from this, so they cannot differ.
Source: the roles `remote` and `local` of Cilium's etcd; our private records are added for agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshmodel import keys
from meshmodel.private_keys import PRIVATE

REMOTE: Final = "remote"
LOCAL: Final = "local"


@dataclass(frozen=True, slots=True)
class Readable:
    """Everything under some prefixes, and some single keys."""

    prefixes: tuple[bytes, ...]
    keys: tuple[bytes, ...] = ()


ADMIN_READS: Final = Readable((keys.ROOT, PRIVATE))


def peer_reads(cluster: str) -> Readable:
    """What a peer (role `remote`) reads of the named cluster: its public records, canaries, config and heartbeat.

    The heartbeat is a prefix, as Cilium's clients watch it as one.
    """
    return Readable((keys.HEARTBEAT, keys.STATE, keys.synced_prefix(cluster)), (keys.cluster_config_key(cluster),))


def agent_reads() -> Readable:
    """What the cluster's own agents (role `local`) read: what peers read, mirrored peers, and private records."""
    return Readable((keys.HEARTBEAT, keys.STATE, keys.CACHE, keys.CLUSTER_CONFIG_PREFIX, keys.SYNCED_PREFIX, PRIVATE))
