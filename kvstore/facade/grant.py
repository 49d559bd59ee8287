# SPDX-License-Identifier: Apache-2.0
"""What one client of the facade may read, and how much it may use. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.store import OPEN_END, prefix_end


@dataclass(frozen=True, slots=True)
class Grant:
    """Read access of one named client: everything under some prefixes, and some single keys.

    `is_per_address`: the name is shared by many programs that trust each other (our own agents), so each address is a
    client with limits of its own. Otherwise all connections of the name are one client.
    """

    name: str
    prefixes: tuple[bytes, ...] = ()
    keys: tuple[bytes, ...] = ()
    is_per_address: bool = False

    def covers(self, key: bytes, range_end: bytes) -> bool:
        """True if every key the request could ever name is granted.

        Shape: `range_end` as in etcd: empty for the one key, `\\0` for everything from the key on.
        """
        if range_end in {b"", key + b"\0"} and key in self.keys:
            return True
        return any(_is_under(prefix, key, range_end) for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What clients can make us spend, by what it is counted for: connection, stream, client, or the whole facade."""

    streams_per_connection: int = 32
    ranges_per_connection: int = 64
    private_watches_per_connection: int = 64
    watches_per_stream: int = 128

    connections_per_client: int = 1024
    streams_per_client: int = 4096
    watches_per_client: int = 16_384
    private_watches_per_client: int = 256
    shared_watches_per_client: int = 64
    ranges_at_once_per_client: int = 4
    unpaged_at_once_per_client: int = 1
    in_flight_bytes_per_client: int = 64 << 20
    requests_per_s: float = 1000.0
    request_burst: float = 2000.0
    bytes_per_s: float = 256.0 * (1 << 20)
    bytes_burst: float = 512.0 * (1 << 20)
    etcd_s_per_s: float = 2.0
    etcd_burst_s: float = 300.0

    page_size: int = 10_000
    unpaged_at_once: int = 2
    request_bytes: int = 64 << 10
    control_messages: int = 1024
    control_bytes: int = 1 << 20
    message_bytes: int = 1 << 20
    stalled_s: float = 120.0
    idle_connection_s: float = 300.0
    handshake_s: float = 20.0

    shared_watches: int = 4096
    history_bytes: int = 8 << 20
    history_bytes_total: int = 128 << 20
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
