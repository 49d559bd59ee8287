# SPDX-License-Identifier: Apache-2.0
"""Everything etcd can answer with, split by the first question of a caller: does trying again help?"""

# the names are the store's own words and read as such where they are caught
# ruff: noqa: N818

from __future__ import annotations

from typing import Final

import grpc

from meshkit.errors import MAXIMUM_TEXT, MeshError, PermanentError, TransientError


class KvError(TransientError):
    """The store did not do it this time."""


class Unavailable(KvError):
    """Not reached, or the outcome is unknown."""


class StoreChanged(Unavailable):
    """Another store answered under the same address: revisions and leases of the old one mean nothing here."""


class Stale(KvError):
    """Users or roles changed during the call; nothing was applied."""


class Compacted(KvError):
    """The revision is gone from the history; `revision` is the oldest one left, 0 if unknown."""

    def __init__(self, revision: int = 0) -> None:
        super().__init__(f"history before revision {revision} is compacted" if revision else "history is compacted")
        self.revision = revision


class Oversized(KvError):
    """An answer is larger than we accept; ask for less at once."""


class LeaseLost(KvError):
    """The lease is gone, and with it every key attached to it; `lease` is its id, 0 if unknown."""

    def __init__(self, lease: int = 0) -> None:
        super().__init__(f"lease {lease:x} is gone")
        self.lease = lease


class NoSpace(KvError):
    """The store's quota is used up; reads and deletes still work."""


class Denied(PermanentError):
    """The store knows who asks and does not allow it."""


class Rejected(PermanentError):
    """The request itself is wrong: too large, too many operations, a key twice."""


_DENIED_TEXTS: Final = ("user name is empty", "user name not found", "permission denied", "invalid auth token")
_REJECTED_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    }
)


def classify(code: grpc.StatusCode, text: str) -> MeshError:
    """The error of ours that a gRPC status stands for.

    INTERNAL and UNKNOWN count as passing, since a server that is told to stop ends its streams and calls with them.
    """
    text = text[:MAXIMUM_TEXT]
    if code is grpc.StatusCode.PERMISSION_DENIED or any(part in text for part in _DENIED_TEXTS):
        return Denied(text)
    if "revision of auth store is old" in text:
        return Stale(text)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Compacted()
    if code is grpc.StatusCode.NOT_FOUND and "lease" in text:
        return LeaseLost()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "database space exceeded" in text:
            return NoSpace(text)
        if "larger than max" in text:
            # the side that complains names itself: our own gRPC of an answer, the server's of our request
            return Rejected(text) if text.startswith(("grpc:", "SERVER:")) else Oversized(text)
        return Unavailable(f"{code.name}: {text}")
    if code in _REJECTED_CODES:
        return Rejected(text)
    return Unavailable(f"{code.name}: {text}")
