# SPDX-License-Identifier: Apache-2.0
"""What a program that follows clusters is given of the world outside it, besides time and Kubernetes."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from kvstore.clientconfig import ClientConfig, Resolver
from kvstore.etcd import EtcdStore
from kvstore.options import Options
from meshkit.filewatch import watch_directory
from meshkit.resolve import ipv4_addresses

Dial: TypeAlias = Callable[[ClientConfig, Options | None, Resolver | None], EtcdStore]
Watch: TypeAlias = Callable[[Path], AsyncIterator[None]]
Resolve: TypeAlias = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Outside:
    """Chance, stores, files, names, and what was used.

    `dial` makes a client for what a connection file says. `watch` yields at the start and whenever files of a directory may
    have changed. `resolve` gives a name's IPv4 addresses, none if nobody knows it, and blocks. `cpu_s` is the CPU time of
    this thread so far.
    """

    rng: random.Random = field(default_factory=random.Random)
    dial: Dial = ClientConfig.connect
    watch: Watch = watch_directory
    resolve: Resolve = ipv4_addresses
    cpu_s: Callable[[], float] = time.thread_time
