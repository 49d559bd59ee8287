# SPDX-License-Identifier: Apache-2.0
"""Verdicts to the policy and endpoint maps and to attachments, in the order `plan` gives."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from agent.datapath.errors import MapFullError
from agent.datapath.layout import EndpointFlag, EndpointValue, IfindexKey, PolicyKey, PolicyValue
from agent.datapath.maps import Maps
from agent.policy.address_entries import AddressEntries
from agent.policy.fit import describe_excess, fit
from agent.policy.plan import (
    ClassChange,
    Write,
    changes,
    changes_from_map,
    closing,
    copies_of,
    denials_of,
    emptying,
    order,
    runs,
)
from agent.settings import AgentSettings
from agent.tables import THE_NODE, Endpoint, EndpointVerdicts
from meshkit.errors import TransientError
from meshkit.isolation import apply_rows
from meshkit.reconciler import Rows
from meshpolicy import Direction, EndpointPolicy, EntryKey

log = logging.getLogger(__name__)

_REVISION_MODULUS = 1 << 32
_DIRECTIONS = frozenset(Direction)
_NODE_KEY = IfindexKey(0)


class Attachments(Protocol):
    """What runs our programs; the datapath, or a stand-in."""

    def attach(self, ifindex: int) -> None: ...
    def detach(self, ifindex: int) -> None: ...
    def attached(self) -> set[int]: ...
    def unattached(self, ifindexes: Collection[int]) -> set[int]: ...


class PolicyTruncatedError(TransientError):
    """A pod's policy does not fit: all it denies is denied, but not all it allows is allowed."""


class EndpointTarget:
    """Policy entries, endpoint entries and attachments of this node's pods, and of the node; keys of failures are addresses.

    A pod is enforced from before its first entry on, and stays so when its entries find no room: then it has the denials
    and what else fits, `failures` says so, and no pod takes more than `share` entries, or than its row says, from the others.
    """

    def __init__(self, maps: Maps, attachments: Attachments, share: int = AgentSettings.policy_entries_per_pod) -> None:
        self.failures: dict[str, str] = {}
        self._share = share
        self._policy, self._attachments = maps.policy, attachments
        self._by_address, self._by_ifindex = AddressEntries(maps.endpoints_by_address), maps.endpoints_by_ifindex
        self._node = maps.node
        self._live: dict[str, EndpointValue] = {}
        self._applied: dict[int, EndpointPolicy] = {}
        self._held: dict[int, dict[EntryKey, PolicyValue]] = {}  # instead of it, where the map was read
        self._attached: set[int] = set()
        self._torn: set[str] = set()  # addresses of which one of the two endpoint maps may hold something else
        self._last_revision = 0  # never used twice on this node: an address may come back with another pod

    def restore(self) -> dict[str, int]:
        """Take over what the maps hold; returns endpoint ids by address."""
        for value in self._by_address.restore():
            self._live[value.address] = value
            self._last_revision = max(self._last_revision, value.policy_revision)
        by_ifindex = {key.ifindex: value for key, value in self._by_ifindex.items()}
        self._last_revision = max([self._last_revision, *(v.policy_revision for v in by_ifindex.values())])
        self._torn = {a for a, value in self._live.items() if by_ifindex.get(value.ifindex) != value}
        self._torn |= self._by_address.torn(self._live)
        node = self._node.get(_NODE_KEY)
        if node is not None:
            self._live[THE_NODE.address] = node
            self._last_revision = max(self._last_revision, node.policy_revision)
        for endpoint_id, entries in self._entries_in_map().items():
            self._held[endpoint_id] = entries
        return {address: value.endpoint_id for address, value in self._live.items()}

    def liken(self, likes: Mapping[int, int], denied_as: Collection[tuple[int, int]] = ()) -> None:
        """Whoever has one of these identities is treated as the entries in the maps treat the other.

        The first of each pair of `denied_as` keeps its entries, and is denied what the second is denied. An endpoint whose
        copies do not all find room is closed until its policy is written.

        Raises: MapError.
        """
        for endpoint_id, held in self._entries_in_map().items():
            copies = copies_of(held, likes)
            wanted = {write.key for write in copies}
            stale = [key for key in held if key.identity in likes and key not in wanted]
            self._policy.delete([_policy_key(endpoint_id, key) for key in stale])
            self._reload(endpoint_id)
            copies = [*denials_of(held, denied_as), *copies]
            if self._put_some(endpoint_id, copies) < len(copies):
                self._empty(endpoint_id)
                log.warning("no room for what new identities are denied: closed", extra={"key": endpoint_id})

    def revision(self, address: str) -> int | None:
        """The policy revision the kernel enforces for the pod; None if it enforces nothing."""
        live = self._live.get(address)
        return None if live is None else live.policy_revision

    def enforces(self, endpoint: Endpoint) -> bool:
        """Whether the pod's interface runs our programs and the maps lead to it; what its policy has no room for is denied."""
        live = self._live.get(endpoint.address)
        return (
            live is not None
            and (live.ifindex, live.endpoint_id, live.identity)
            == (endpoint.ifindex, endpoint.endpoint_id, endpoint.identity)
            and endpoint.ifindex in self._attached
            and endpoint.address not in self._torn
            and self._by_address.ipv6_of(endpoint.address) == set(endpoint.ipv6)
        )

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
                endpoint_value(row, 0).pack()  # before anything is written for a row that no map can hold
            except Exception as exc:  # one pod's failure stays with that pod
                failures[row.endpoint.address] = exc
                continue
            try:
                self._write(row)
            except PolicyTruncatedError as exc:
                failures[row.endpoint.address] = exc
            except Exception as exc:
                self._reload(row.endpoint.endpoint_id)
                failures[row.endpoint.address] = exc
            else:
                self.failures.pop(row.endpoint.address, None)
        self.failures.update({str(address): str(exc) for address, exc in failures.items()})
        return failures

    def delete(self, rows: Sequence[EndpointVerdicts]) -> Mapping[Hashable, Exception]:
        def remove(part: Sequence[EndpointVerdicts]) -> None:
            for row in part:
                self._remove(row.endpoint.address)

        return apply_rows(rows, lambda row: row.endpoint.address, remove)

    def prune(self, rows: Rows[str, EndpointVerdicts]) -> Iterator[Collection[str]]:
        """Only these endpoints have entries, and only their interfaces run our programs; names whose differ. One step."""
        found = [row for key in rows.keys() if (row := rows.get(key)) is not None]  # noqa: SIM118
        kept = {row.endpoint.address: row.endpoint for row in found}
        for address in [a for a in self._live if a not in kept]:
            self._remove(address)
        ids = {endpoint.endpoint_id for endpoint in kept.values()}
        for endpoint_id in [i for i in (*self._held, *self._applied) if i not in ids]:
            self._delete_entries(endpoint_id)
        interfaces = {endpoint.ifindex for endpoint in kept.values() if endpoint.ifindex}
        by_ifindex = {key.ifindex: value for key, value in self._by_ifindex.items()}
        self._by_address.prune(self._live)
        self._torn |= self._by_address.torn(self._live)
        self._by_ifindex.delete([IfindexKey(ifindex) for ifindex in by_ifindex if ifindex not in interfaces])
        attached = self._attachments.attached()
        for ifindex in attached - interfaces:
            self._attachments.detach(ifindex)
        self._attached &= attached
        node, live_node = self._node.get(_NODE_KEY), self._live.get(THE_NODE.address)
        if node is not None and live_node is None:
            self._node.delete([_NODE_KEY])
        for address, value in self._live.items():
            if value.ifindex and by_ifindex.get(value.ifindex) != value:
                self._torn.add(address)
        if node != live_node and live_node is not None:
            self._torn.add(THE_NODE.address)
        changed = self._compare_entries(ids)
        yield [
            address
            for address, endpoint in kept.items()
            if address in self._torn
            or endpoint.endpoint_id in changed
            or self._by_address.ipv6_of(address) != set(endpoint.ipv6)
            or (endpoint.ifindex and endpoint.ifindex not in self._attached)
        ]

    def _compare_entries(self, ids: set[int]) -> set[int]:
        """Endpoints whose policy entries are not as they were written; their shadow is what the map holds."""
        found = self._entries_in_map()
        self._policy.delete([key for key, _ in self._policy.items() if key.direction not in _DIRECTIONS])
        for endpoint_id in found.keys() - ids:
            self._held[endpoint_id] = found[endpoint_id]
            self._delete_entries(endpoint_id)
        changed = set()
        for endpoint_id, policy in list(self._applied.items()):
            held = found.get(endpoint_id, {})
            if changes_from_map(held, policy):
                self._held[endpoint_id] = held
                del self._applied[endpoint_id]
                changed.add(endpoint_id)
        return changed

    def _entries_in_map(self) -> dict[int, dict[EntryKey, PolicyValue]]:
        """Entries by endpoint id, without those that no policy can have made."""
        found: dict[int, dict[EntryKey, PolicyValue]] = {}
        for key, entry in self._policy.items():
            if key.direction in _DIRECTIONS:
                found.setdefault(key.endpoint_id, {})[_entry_key(key)] = entry
        return found

    def _write(self, row: EndpointVerdicts) -> None:
        endpoint, live = row.endpoint, self._live.get(row.endpoint.address)
        if live is not None and live.endpoint_id != endpoint.endpoint_id:
            self._remove(endpoint.address)
            live = None
        wanted = endpoint_value(row, 0 if live is None else live.policy_revision)
        policy = fit(row.policy, min(row.most or self._share, self._share), row.own_ranges)
        flags = wanted.flags
        if live is None:
            live = self._publish(wanted._replace(policy_revision=self._next_revision()), endpoint.ipv6)
            self._attach(endpoint.ifindex)
        found = self._changes(endpoint.endpoint_id, policy)
        if live.flags & ~flags:
            live = self._publish(live._replace(flags=live.flags & flags), self._by_address.ipv6_of(live.address))
        try:
            self._write_entries(endpoint.endpoint_id, found)
            is_whole = True
        except MapFullError:
            is_whole = self._close(endpoint.endpoint_id, policy)
        if is_whole:
            self._held.pop(endpoint.endpoint_id, None)
            self._applied[endpoint.endpoint_id] = policy
        wanted = wanted._replace(policy_revision=live.policy_revision)
        is_moved = self._by_address.ipv6_of(endpoint.address) != set(endpoint.ipv6)
        if wanted != live or found or is_moved or endpoint.address in self._torn:
            self._publish(wanted._replace(policy_revision=self._next_revision()), endpoint.ipv6)
        if live.ifindex != endpoint.ifindex:
            self._leave(live.ifindex, endpoint.address)
        self._attach(endpoint.ifindex)
        if not is_whole:
            raise PolicyTruncatedError("the policy map is full: what is allowed beyond it is denied")
        if policy is not row.policy:
            raise PolicyTruncatedError(describe_excess(row, self._share))

    def _close(self, endpoint_id: int, policy: EndpointPolicy) -> bool:
        """The map holds nothing for the endpoint that this policy does not say, and what finds room; true if that is all."""
        self._reload(endpoint_id)
        for _ in range(2):
            part = closing(self._held[endpoint_id], policy)
            self._delete_some(endpoint_id, part.opening)
            if self._put_some(endpoint_id, part.restricting) == len(part.restricting):
                self._delete_some(endpoint_id, part.outdated)
                return self._put_some(endpoint_id, part.others) == len(part.others)
            self._empty(endpoint_id)
        self._put_some(endpoint_id, [write for write in part.restricting if write.is_guard])
        return False

    def _empty(self, endpoint_id: int) -> None:
        """The map holds nothing for the endpoint but the guard of the node: directions that are enforced are closed."""
        self._write_entries(endpoint_id, emptying(self._held[endpoint_id]))
        self._reload(endpoint_id)

    def _delete_some(self, endpoint_id: int, keys: Sequence[EntryKey]) -> None:
        self._policy.delete([_policy_key(endpoint_id, key) for key in keys])
        for key in keys:
            del self._held[endpoint_id][key]

    def _put_some(self, endpoint_id: int, writes: Sequence[Write]) -> int:
        """As many of the writes as find room, in order; returns how many that were."""
        items = [(w.key, w.value) for w in writes if w.value is not None]
        try:
            self._policy.update([(_policy_key(endpoint_id, key), value) for key, value in items])
            done = len(items)
        except MapFullError as exc:
            done = exc.done
        self._held[endpoint_id].update(items[:done])
        return done

    def _attach(self, ifindex: int) -> None:
        if ifindex and ifindex not in self._attached:  # the node's own devices run the programs that judge it anyway
            self._attachments.attach(ifindex)
            self._attached.add(ifindex)

    def _next_revision(self) -> int:
        self._last_revision = (self._last_revision + 1) % _REVISION_MODULUS or 1
        return self._last_revision

    def _publish(self, value: EndpointValue, ipv6: Iterable[str]) -> EndpointValue:
        """Both maps say this of the endpoint. Until they do, the next attempt publishes again."""
        self._torn.add(value.address)
        if value.ifindex:
            try:
                self._by_address.publish(value, ipv6)
                self._live[value.address] = value
                self._by_ifindex.update([(IfindexKey(value.ifindex), value)])
            except MapFullError:
                self._attach(value.ifindex)  # programs that do not know whom they judge drop everything
                raise
        else:
            self._node.update([(_NODE_KEY, value)])
            self._live[value.address] = value
        self._torn.discard(value.address)
        return value

    def _remove(self, address: str) -> None:
        """The pod is not enforced any more: programs first, then what they read."""
        live = self._live.get(address)
        if live is None:
            return
        if live.ifindex:
            self._leave(live.ifindex, address)
            self._by_address.remove(address)
        else:
            self._node.delete([_NODE_KEY])
        self._delete_entries(live.endpoint_id)
        self._torn.discard(address)
        self.failures.pop(address, None)
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
        self._held[endpoint_id] = self._entries_in_map().get(endpoint_id, {})
        self._applied.pop(endpoint_id, None)


def endpoint_value(row: EndpointVerdicts, revision: int) -> EndpointValue:
    """What both endpoint maps hold for the pod of this row."""
    endpoint = row.endpoint
    return EndpointValue(
        endpoint.ifindex, endpoint.endpoint_id, _flags(row), endpoint.identity, revision,
        endpoint.mac, endpoint.node_mac, endpoint.address,
    )  # fmt: skip


def _flags(row: EndpointVerdicts) -> int:
    return (
        int(row.policy.ingress_enforced) * EndpointFlag.ENFORCE_INGRESS
        | int(row.policy.egress_enforced) * EndpointFlag.ENFORCE_EGRESS
        | int(Direction.INGRESS in row.watched) * EndpointFlag.WATCH_INGRESS
        | int(Direction.EGRESS in row.watched) * EndpointFlag.WATCH_EGRESS
        | int(row.endpoint.is_bridge_port) * EndpointFlag.BRIDGE_PORT
    )


def _policy_key(endpoint_id: int, key: EntryKey) -> PolicyKey:
    return PolicyKey(endpoint_id, *key)


def _entry_key(key: PolicyKey) -> EntryKey:
    return EntryKey(Direction(key.direction), key.identity, key.protocol, key.port, key.port_bits)
