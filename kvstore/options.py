# SPDX-License-Identifier: Apache-2.0
"""How a client connects and how much it takes at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts of one client; `server_name` is what the server's certificate must cover, the target's host if None."""

    ca: bytes
    cert: bytes
    key: bytes = field(repr=False)
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """Client settings; the defaults were measured on etcd 3.4 with 100,000 keys.

    Shape: `page_size` keys a page (etcd pages cost quadratically, so few large ones); a position more than
           `replay_limit` revisions behind is listed again, as replaying is 50 times slower than listing.
    """

    page_size: int = 10_000
    max_message_bytes: int = 256 << 20
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0
    connect_timeout_s: float = 3.0
    call_timeout_s: float = 5.0
    list_timeout_s: float = 30.0
    replay_limit: int = 5_000
    backoff_minimum_s: float = 0.1
    backoff_maximum_s: float = 5.0
    rng: random.Random = field(default_factory=random.Random, compare=False, repr=False)
