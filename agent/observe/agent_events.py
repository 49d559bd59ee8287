# SPDX-License-Identifier: Apache-2.0
"""Changes of the agent's own tables as Hubble's agent events. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from agent.tables import AgentDB, Endpoint, PolicyRow, Prefix
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from meshkit.table import Change, HistoryLostError, Table

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class AgentEvents:
    """What happened to endpoints, addresses and policies since the last look. `most`: more than these nobody could keep."""

    def __init__(self, db: AgentDB, most: int) -> None:
        self._db, self._most = db, most
        self._revisions: dict[str, int] = {}
        self._seen = -1
        self._endpoints: set[str] = set()

    def started(self, wall_ns: int) -> FlowEntry:
        """The agent began."""
        event = pb.AgentEvent(type=pb.AGENT_STARTED)
        event.agent_start.time.FromNanoseconds(wall_ns)
        return _entry(event, wall_ns)

    def look(self, wall_ns: int) -> list[FlowEntry]:
        """Net changes, table by table."""
        db = self._db
        if self._seen == db.revision:
            return []
        self._seen = db.revision
        found = [self._endpoint(change) for change in self._changes(db.endpoints)]
        found += [_prefix(change) for change in self._changes(db.prefixes)]
        found += [_policy(change, db.policies.revision) for change in self._changes(db.policies)]
        return [_entry(event, wall_ns) for event in found[-self._most :]]

    def _changes(self, table: Table[K, R]) -> Iterable[Change[K, R]]:
        since = self._revisions.get(table.name, 0)
        self._revisions[table.name] = table.revision
        try:
            return table.changes_since(since)[-self._most :]
        except HistoryLostError:
            return ()

    def _endpoint(self, change: Change[str, Endpoint]) -> pb.AgentEvent:
        row = change.row
        if change.deleted:
            self._endpoints.discard(change.key)
            event = pb.AgentEvent(type=pb.ENDPOINT_DELETED)
        elif change.key in self._endpoints:
            event = pb.AgentEvent(type=pb.ENDPOINT_REGENERATE_SUCCESS)
            event.endpoint_regenerate.id = row.endpoint_id
            return event
        else:
            self._endpoints.add(change.key)
            event = pb.AgentEvent(type=pb.ENDPOINT_CREATED)
        update = event.endpoint_update
        update.id, update.namespace, update.pod_name = row.endpoint_id, row.namespace, row.pod
        return event


def _prefix(change: Change[str, Prefix]) -> pb.AgentEvent:
    row = change.row
    event = pb.AgentEvent(type=pb.IPCACHE_DELETED if change.deleted else pb.IPCACHE_UPSERTED)
    update = event.ipcache_update
    update.cidr, update.identity, update.host_ip = row.prefix, row.identity, row.tunnel
    update.namespace, update.pod_name = row.namespace, row.name if row.namespace else ""
    return event


def _policy(change: Change[tuple[str, str, str], PolicyRow], revision: int) -> pb.AgentEvent:
    row = change.row
    event = pb.AgentEvent(type=pb.POLICY_DELETED if change.deleted else pb.POLICY_UPDATED)
    event.policy_update.labels.extend(_policy_labels(row))
    event.policy_update.revision = revision
    return event


def _policy_labels(row: PolicyRow) -> Iterator[str]:
    yield f"k8s:io.cilium.k8s.policy.derived-from={row.kind}"
    yield f"k8s:io.cilium.k8s.policy.name={row.name}"
    if row.namespace:
        yield f"k8s:io.cilium.k8s.policy.namespace={row.namespace}"


def _entry(event: pb.AgentEvent, wall_ns: int) -> FlowEntry:
    return FlowEntry(wall_ns, None, None, event.SerializeToString())
