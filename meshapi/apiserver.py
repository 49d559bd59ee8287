# SPDX-License-Identifier: Apache-2.0
"""What one cluster's publisher says: its status, what it published, and its store. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from meshapi.agent import AgentStatus
from meshapi.peer import RemoteCluster
from meshapi.row import SCHEMA, Row

NOT_SEEN: Final = "not seen by peers: "
"""How a problem begins that says which pods peers cannot reach, as they are told nothing of them."""


class FacadeSession(Row, kw_only=True):
    """A client of the read-only facade."""

    name: str
    address: str = ""
    since: float = 0.0
    watches: int = 0
    bytes_sent: int = 0


class ApiserverStatus(Row, kw_only=True):
    """One cluster's publisher. `published` and `synced` are by kind of record; `now` is what its clock showed."""

    schema: int = SCHEMA
    cluster: str = ""
    cluster_id: int = 0
    max_connected_clusters: int = 255
    version: str = ""
    ready: bool = False
    started: float = 0.0
    now: float = 0.0
    source: str = ""
    published: dict[str, int] = msgspec.field(default_factory=dict)
    synced: dict[str, bool] = msgspec.field(default_factory=dict)
    etcd_version: str = ""
    certificate_not_after: float = 0.0
    agents: list[AgentStatus] = msgspec.field(default_factory=list)
    peers: list[RemoteCluster] = msgspec.field(default_factory=list)
    sessions: list[FacadeSession] = msgspec.field(default_factory=list)
    health: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[str] = msgspec.field(default_factory=list)


class PublishedService(Row, kw_only=True):
    """A service record as peers can read it; `record` is the published JSON itself. `service` is namespace/name."""

    service: str
    record: Any


class CertificateRow(Row, kw_only=True):
    """One certificate that is shown to clients or trusted. Times are wall seconds; `serial` is hexadecimal."""

    role: str
    subject_cn: str
    issuer: str
    serial: str
    not_before: float
    not_after: float
    fingerprint: str
    sans: list[str] = msgspec.field(default_factory=list)


class Reach(Row, kw_only=True):
    """Whether a TLS server was reached and is who it should be: `problem` is "none", or a word for what is wrong."""

    problem: str
    detail: str = ""
    advice: str = ""


class StoreEntry(Row, kw_only=True, omit_defaults=True):
    """One key of the store; `value` is base64 and absent where only keys were asked for, `lease` is hexadecimal."""

    key: str
    revision: int
    bytes: int
    lease: str = ""
    value: str | None = None


class StorePage(Row, kw_only=True):
    """Keys in order; `more` says that there are others after the last."""

    entries: list[StoreEntry]
    more: bool


class StoreEvent(Row, kw_only=True, omit_defaults=True):
    """One event of a watch: listed or put (an entry), delete (a key), or a mark without a key: listed, interrupted.

    `event` is listed, put, delete; or, where `key` is empty, the phase the watch is in.
    """

    event: str
    revision: int
    key: str = ""
    bytes: int = 0
    value: str | None = None


_DECODER: Final = msgspec.json.Decoder(ApiserverStatus)
"""Made here, since threads that decode a type for the first time at once end the process."""


def decode_apiserver(data: bytes) -> ApiserverStatus:
    """Raises: msgspec.DecodeError (members we do not know are ignored)."""
    return _DECODER.decode(data)
