# SPDX-License-Identifier: Apache-2.0
"""What `troubleshoot` of a program found out about connections with other stores. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshapi.row import SCHEMA, Row


class TrialStep(StrEnum):
    """What was tried, in the order of a connection."""

    NAME = "name"
    CONNECTION = "connection"
    SERVER_CERTIFICATE = "server-certificate"
    TRUSTED_CA = "trusted-ca"
    CLIENT_CERTIFICATE = "client-certificate"
    READ = "read"
    HEARTBEAT = "heartbeat"
    CONFIGURATION = "cluster-configuration"
    CANARIES = "canaries"


class TrialOutcome(StrEnum):
    """How a step went; `info` is neither well nor wrong."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class TrialFinding(Row):
    """One step. `detail` is for a person; `address` is where a connection was tried, else empty."""

    step: TrialStep
    outcome: TrialOutcome
    detail: str
    address: str = ""


class EndpointTrial(Row):
    """One endpoint of a connection file: a URL, and every address that it leads to."""

    url: str
    findings: list[TrialFinding]


class PeerTrial(Row, kw_only=True):
    """One connection file. `works` if an endpoint was reached and the store can be read as a session reads it.

    `refused` says why the file cannot be used; nothing was tried then.
    """

    name: str
    path: str
    works: bool = False
    refused: str = ""
    endpoints: list[EndpointTrial] = msgspec.field(default_factory=list)
    certificates: list[TrialFinding] = msgspec.field(default_factory=list)
    store: list[TrialFinding] = msgspec.field(default_factory=list)


class Trials(Row, kw_only=True):
    """Every connection file that was asked for. `refused` has the files that are no peer's, by name, with the reason.

    `works` if none is refused, each peer's works, and there is one where peers were named.
    """

    schema: int = SCHEMA
    works: bool
    refused: dict[str, str]
    peers: list[PeerTrial]
