# SPDX-License-Identifier: Apache-2.0
"""Verdicts to the policy and endpoint maps and to attachments, in the order `plan` gives."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Protocol

from agent.datapath.layout import AddressKey, EndpointFlag, EndpointValue, IfindexKey, PolicyKey, PolicyValue
from agent.datapath.maps import Maps
from agent.policy.plan import ClassChange, changes, changes_from_map, order, runs
from agent.tables import EndpointVerdicts
from meshkit.errors import TransientError
from meshpolicy import Direction, EndpointPolicy, EntryKey

log = logging.getLogger(__name__)

_REVISION_MODULUS = 1 << 32


class Attachments(Protocol):
    """What runs our programs; the datapath, or a stand-in."""

    def attach(self, ifindex: int) -> None: ...
    def detach(self, ifindex: int) -> None: ...
    def attached(self) -> set[int]: ...
    def unattached(self, ifindexes: Collection[int]) -> set[int]: ...


class EndpointTarget:
    """Policy entries, endpoint entries and attachments of this node's pods; keys of failures are pod addresses."""

    def __init__(self, maps: Maps, attachments: Attachments) -> None:
        self._policy, self._attachments = maps.policy, attachments
        self._by_address, self._by_ifindex = maps.endpoints_by_address, maps.endpoints_by_ifindex
        self._live: dict[str, EndpointValue] = {}
        self._applied: dict[int, EndpointPolicy] = {}
        self._held: dict[int, dict[EntryKey, PolicyValue]] = {}  # instead of it, where the map was read
        self._attached: set[int] = set()
        self._last_revision = 0  # never used twice on this node: an address may come back with another pod

    def restore(self) -> dict[str, int]:
        """Take over what the maps hold; returns endpoint ids by address."""
        for value in [value for _, value in self._by_address.items()]:
            self._live[value.address] = value
            self._last_revision = max(self._last_revision, value.policy_revision)
        for key, entry in self._policy.items():
            self._held.setdefault(key.endpoint_id, {})[_entry_key(key)] = entry
        return {address: value.endpoint_id for address, value in self._live.items()}

    def revision(self, address: str) -> int | None:
        """The policy revision the kernel enforces for the pod; None if it enforces nothing."""
        live = self._live.get(address)
        return None if live is None else live.policy_revision

    def reattach(self) -> set[int]:
        """Interfaces of endpoints that lost our programs run them again; returns which those were."""
        lost = self._attachments.unattached(self._attached)
        for ifindex in lost:
            self._attached.discard(ifindex)  # should this fail, the next write for the pod attaches
            try:
                self._attachments.attach(ifindex)
            except TransientError as exc:
                log.warning("interface lost its programs and takes none", extra={"key": ifindex, "error": str(exc)})
            else:
                self._attached.add(ifindex)
                log.warning("interface lost its programs, attached again", extra={"key": ifindex})
        return lost

    def update(self, rows: Sequence[EndpointVerdicts]) -> Mapping[Hashable, Exception]:
        failures: dict[Hashable, Exception] = {}
        for row in rows:
            try:
                self._write(row)
            except TransientError as exc:
                self._reload(row.endpoint.endpoint_id)
                failures[row.endpoint.address] = exc
        return failures

    def delete(self, rows: Sequence[EndpointVerdicts]) -> Mapping[Hashable, Exception]:
        failures: dict[Hashable, Exception] = {}
        for row in rows:
            try:
                self._remove(row.endpoint.address)
            except TransientError as exc:
                failures[row.endpoint.address] = exc
        return failures

    def prune(self, rows: Iterable[EndpointVerdicts]) -> None:
        """Only these endpoints have entries, and only their interfaces run our programs."""
        kept = {row.endpoint.address: row.endpoint for row in rows}
        for address in [a for a in self._live if a not in kept]:
            self._remove(address)
        ids = {endpoint.endpoint_id for endpoint in kept.values()}
        for endpoint_id in [i for i in (*self._held, *self._applied) if i not in ids]:
            self._delete_entries(endpoint_id)
        interfaces = {endpoint.ifindex for endpoint in kept.values()}
        stray = [key for key, _ in self._by_ifindex.items() if key.ifindex not in interfaces]
        self._by_ifindex.delete(stray)
        for ifindex in self._attachments.attached() - interfaces:
            self._attachments.detach(ifindex)

    def _write(self, row: EndpointVerdicts) -> None:
        endpoint, live = row.endpoint, self._live.get(row.endpoint.address)
        if live is not None and live.endpoint_id != endpoint.endpoint_id:
            self._remove(endpoint.address)
            live = None
        flags = _flags(row)
        found = self._changes(endpoint.endpoint_id, row.policy)
        if live is not None and live.flags & ~flags:
            live = self._publish(live._replace(flags=live.flags & flags))
        self._write_entries(endpoint.endpoint_id, found)
        self._held.pop(endpoint.endpoint_id, None)
        self._applied[endpoint.endpoint_id] = row.policy
        revision = 0 if live is None else live.policy_revision
        wanted = EndpointValue(
            endpoint.ifindex, endpoint.endpoint_id, flags, endpoint.identity, revision,
            endpoint.mac, endpoint.node_mac, endpoint.address,
        )  # fmt: skip
        if live is None or wanted != live or found:
            self._last_revision = (self._last_revision + 1) % _REVISION_MODULUS or 1
            self._publish(wanted._replace(policy_revision=self._last_revision))
        if live is not None and live.ifindex != endpoint.ifindex:
            self._leave(live.ifindex, endpoint.address)
        if endpoint.ifindex not in self._attached:
            self._attachments.attach(endpoint.ifindex)
            self._attached.add(endpoint.ifindex)

    def _publish(self, value: EndpointValue) -> EndpointValue:
        self._by_address.update([(AddressKey(value.address), value)])
        self._by_ifindex.update([(IfindexKey(value.ifindex), value)])
        self._live[value.address] = value
        return value

    def _remove(self, address: str) -> None:
        """The pod is not enforced any more: programs first, then what they read."""
        live = self._live.get(address)
        if live is None:
            return
        self._leave(live.ifindex, address)
        self._by_address.delete([AddressKey(address)])
        self._delete_entries(live.endpoint_id)
        del self._live[address]

    def _leave(self, ifindex: int, address: str) -> None:
        """The interface is not this pod's any more; another pod that took its number keeps it."""
        if any(v.ifindex == ifindex and v.address != address for v in self._live.values()):
            return
        self._attached.discard(ifindex)
        self._attachments.detach(ifindex)
        self._by_ifindex.delete([IfindexKey(ifindex)])

    def _delete_entries(self, endpoint_id: int) -> None:
        self._write_entries(endpoint_id, self._changes(endpoint_id, EndpointPolicy()))
        self._held.pop(endpoint_id, None)
        self._applied.pop(endpoint_id, None)

    def _changes(self, endpoint_id: int, policy: EndpointPolicy) -> list[ClassChange]:
        held = self._held.get(endpoint_id)
        if held is not None:
            return changes_from_map(held, policy)
        return changes(self._applied.get(endpoint_id, EndpointPolicy()), policy)

    def _write_entries(self, endpoint_id: int, found: list[ClassChange]) -> None:
        for is_put, run in runs(order(found)):
            if is_put:
                puts = [(w.key, w.value) for w in run if w.value is not None]
                self._policy.update([(_policy_key(endpoint_id, k), v) for k, v in puts])
            else:
                self._policy.delete([_policy_key(endpoint_id, w.key) for w in run])

    def _reload(self, endpoint_id: int) -> None:
        """The shadow of one endpoint's entries is what the map holds, whatever was written before the failure."""
        self._applied.pop(endpoint_id, None)
        self._held[endpoint_id] = {
            _entry_key(key): value for key, value in self._policy.items() if key.endpoint_id == endpoint_id
        }


def _flags(row: EndpointVerdicts) -> int:
    ingress = EndpointFlag.ENFORCE_INGRESS if row.policy.ingress_enforced else 0
    return int(ingress | (EndpointFlag.ENFORCE_EGRESS if row.policy.egress_enforced else 0))


def _policy_key(endpoint_id: int, key: EntryKey) -> PolicyKey:
    return PolicyKey(endpoint_id, *key)


def _entry_key(key: PolicyKey) -> EntryKey:
    return EntryKey(Direction(key.direction), key.identity, key.protocol, key.port, key.port_bits)
