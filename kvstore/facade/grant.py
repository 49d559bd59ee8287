# SPDX-License-Identifier: Apache-2.0
"""What one client of the facade may read, and how much of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.store import OPEN_END, prefix_end


@dataclass(frozen=True, slots=True)
class Grant:
    """Read access of one named client: everything under some prefixes, and some single keys."""

    name: str
    prefixes: tuple[bytes, ...] = ()
    keys: tuple[bytes, ...] = ()

    def covers(self, key: bytes, range_end: bytes) -> bool:
        """True if every key the request could ever name is granted.

        Shape: `range_end` as in etcd: empty for the one key, `\\0` for everything from the key on.
        """
        if range_end in {b"", key + b"\0"} and key in self.keys:
            return True
        return any(_is_under(prefix, key, range_end) for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can make us spend. A client is all connections of one grant name."""

    streams_per_connection: int = 32
    streams_per_client: int = 4096
    watches_per_stream: int = 128
    private_watches_per_connection: int = 64
    ranges_per_connection: int = 64
    requests_per_s: float = 1000.0
    request_burst: float = 2000.0
    bytes_per_s: float = 256.0 * (1 << 20)
    bytes_burst: float = 512.0 * (1 << 20)
    page_size: int = 10_000
    unpaged_at_once: int = 2
    request_bytes: int = 64 << 10
    control_messages: int = 1024
    shared_watches: int = 256
    history_bytes: int = 8 << 20
    message_bytes: int = 1 << 20
    linger_s: float = 60.0
    progress_s: float = 600.0
    outage_s: float = 10.0
    ping_interval_s: float = 5.0


def _is_under(prefix: bytes, key: bytes, range_end: bytes) -> bool:
    if not key.startswith(prefix):
        return False
    if not range_end:
        return True
    if range_end == OPEN_END:
        return prefix_end(prefix) == OPEN_END
    return key < range_end and (prefix_end(prefix) == OPEN_END or range_end <= prefix_end(prefix))
