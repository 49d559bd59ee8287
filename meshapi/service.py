# SPDX-License-Identifier: Apache-2.0
"""One service on one node: its addresses, candidates and what the kernel holds. Pure."""

from __future__ import annotations

import msgspec

from meshapi.row import SCHEMA, Row


class BackendStatus(Row, kw_only=True):
    """One backend of a frontend; `age` is the age of the record it came with, in seconds.

    `share` is its part of new connections (0 to 1), `reason` why it has none; `node` is known of the own cluster's only.
    """

    address: str
    port: int
    cluster: str
    state: str = "active"
    chosen: bool = False
    share: float = 0.0
    node: str = ""
    zone: str = ""
    age_s: float | None = msgspec.field(default=None, name="age")
    reason: str = ""


class ServiceStatus(Row, kw_only=True):
    """One service address on one node: `frontend` is address:port/protocol, of address 0.0.0.0 for a node port.

    `clients`: who is led to its backends in every cluster: pods, node (its processes), outsiders.
    """

    frontend: str
    type: str
    clients: list[str] = msgspec.field(default_factory=list)
    name: str = ""
    backends: list[BackendStatus] = msgspec.field(default_factory=list)
    affinity: str = "none"
    is_global: bool = msgspec.field(default=False, name="global")
    problems: list[str] = msgspec.field(default_factory=list)


class RealizedFrontend(Row, kw_only=True):
    """One frontend as the kernel has it. `received` and `realized` are wall seconds of the record and of the map write."""

    frontend: str
    count: int
    backends: list[str]
    received: float = 0.0
    realized: float = 0.0
    matches: bool = True


class ServiceExplanation(Row, kw_only=True):
    """Why a service's traffic goes where it goes on `node`."""

    schema: int = SCHEMA
    name: str
    cluster: str = ""
    node: str = ""
    rule: str
    frontends: list[ServiceStatus]
    realized: list[RealizedFrontend]
    is_global: bool = msgspec.field(default=False, name="global")
    shared: bool = False
    affinity: str = "none"
    last_update: float = 0.0
    problems: list[str] = msgspec.field(default_factory=list)
