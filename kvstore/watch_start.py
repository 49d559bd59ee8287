# SPDX-License-Identifier: Apache-2.0
"""From which revision etcd is asked for changes, so that it refuses to tell what it forgot instead of leaving it out.

A watch may begin at the revision up to which etcd was compacted. If that revision deleted a key, many releases (Debian's 3.4.23
among them) begin the watch and leave the deletion out (etcd issues 18089 and 19179): the reader would keep the key for ever.
Asked for one revision more, every release says that it is compacted, and the reader lists again.
"""

from __future__ import annotations

from kvstore.proto import rpc_pb2 as pb


def asked_from(start_revision: int) -> int:
    """What to ask etcd for to get every change from this revision on; 0 (from now on) and 1 stay as they are."""
    return start_revision - 1 if start_revision > 1 else start_revision


def without_earlier(answer: pb.WatchResponse, start_revision: int) -> bool:
    """The answer loses its events of earlier revisions; false if nothing was in it but those."""
    if not answer.events or answer.events[0].kv.mod_revision >= start_revision:
        return True
    kept = [event for event in answer.events if event.kv.mod_revision >= start_revision]
    del answer.events[:]
    answer.events.extend(kept)
    return bool(kept)
