# SPDX-License-Identifier: Apache-2.0
"""What the relay's page is told: flows as rows of a table and cards of a map, nodes, and why a flow was decided so. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from meshapi.row import SCHEMA, Row


class FlowSide(Row, kw_only=True, omit_defaults=True):
    """One end of a flow. `card` names its card on the map: ends with equal cards are drawn as one, under `title`."""

    card: str
    title: str
    name: str
    cluster: str = ""
    namespace: str = ""
    pod: str = ""
    identity: int = 0
    identity_name: str = ""
    ip: str = ""
    port: int = 0
    labels: list[str] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(default_factory=list)


class HttpCall(Row, kw_only=True, omit_defaults=True):
    """A request, or the answer to one; `code` is 0 for a request."""

    method: str
    path: str
    code: int = 0
    latency_ms: float = 0.0


class FlowRow(Row, kw_only=True, omit_defaults=True):
    """One flow. `time` is wall milliseconds; `link` names its arrow on the map, empty for what flows back.

    `reply` is None where it is not known.
    """

    id: str
    time: float
    node: str
    verdict: str
    type: str
    source: FlowSide
    destination: FlowSide
    link: str = ""
    protocol: str = ""
    direction: str = ""
    reply: bool | None = None
    summary: str = ""
    reason: str = ""
    rules: list[str] = msgspec.field(default_factory=list)
    staged: str = ""
    """The verdict with the staged policies in force; empty where none of them is asked."""
    service: str = ""
    http: HttpCall | None = None
    dns: str = ""


class FlowBatch(Row, kw_only=True):
    """Flows that came since the last batch, oldest first."""

    flows: list[FlowRow]


class PageNode(Row, kw_only=True):
    """A node whose flows are asked for. `since` is wall seconds of its oldest flow, 0 if that is not known."""

    name: str
    state: str
    flows: int = 0
    capacity: int = 0
    seen: int = 0


class PageNamespace(Row, kw_only=True):
    """A namespace of which there were flows in the last hour."""

    cluster: str
    namespace: str


class PageState(Row, kw_only=True):
    """Where flows can come from."""

    schema: int = SCHEMA
    cluster: str
    nodes: list[PageNode]
    namespaces: list[PageNamespace]


class PageMesh(Row, kw_only=True):
    """The publisher's answers as they are (None where it did not answer, and then `problem` says why)."""

    schema: int = SCHEMA
    status: Any = None
    certificates: Any = None
    problem: str = ""


class PageServices(Row, kw_only=True):
    """The service addresses that one node knows, as its agent says."""

    schema: int = SCHEMA
    node: str = ""
    services: Any = None
    problem: str = ""


class FlowExplanation(Row, kw_only=True):
    """A whole flow as JSON of Hubble's message, sentences that say why, and a command that says more."""

    schema: int = SCHEMA
    flow: Any
    why: list[str]
    command: str = ""
    suggestion: str = ""
