# SPDX-License-Identifier: Apache-2.0
"""From pod addresses of this node to endpoints: find the interface, keep a stable id, look again when something changes.

An endpoint stays as long as its last known interface exists, whatever records and routes say meanwhile: a store that loses
our pods, or a route that is away for a moment, takes no policy off a pod. Only a record that says that the pod is on another
node, or the end of the interface, ends an endpoint. An address that is found on another interface while no record says whose it
is has an unknown identity: it may have been given to another pod while no agent ran.

An interface is one address's: programs find the endpoint by it. A second address of a pod has to wait for it, and says so.
Addresses of IPv6 are looked for nowhere: they are those of the pod that has the name, on the interface of its address of IPv4.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from agent.datapath.layout import EndpointFlag
from agent.endpoints.ipv6_addresses import Ipv6Addresses, Pod
from agent.tables import AgentDB, ClaimOrigin, Endpoint, Prefix
from meshkit.table import HistoryLostError
from meshmodel.identity import UNKNOWN

log = logging.getLogger(__name__)

RETRY_MINIMUM_S = 0.05
RETRY_MAXIMUM_S = 5.0
RECHECK_S = 600.0  # everything is looked at again, in case a change was not heard of
LOOK_AGAIN_S = (0.1, 0.5, 2.0)  # after a bridge's ports changed: an address may be set later than its interface
LAST_ID = 0xFFFF
_HOST_BITS = 32
_HOST_BITS_OF_IPV6 = 128
_NO_MAC = "00:00:00:00:00:00"


class Interface(Protocol):
    """What the datapath knows of a pod's interface."""

    @property
    def ifindex(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def node_mac(self) -> str: ...
    @property
    def bridge(self) -> int: ...


class Sighting(Protocol):
    """What was seen of a pod address; `is_there`: the interface it was last known on exists.

    `bridge`: the one that the address is behind, 0: none.
    """

    @property
    def interface(self) -> Interface | None: ...
    @property
    def is_there(self) -> bool: ...
    @property
    def error(self) -> str: ...
    @property
    def bridge(self) -> int: ...


class EndpointChanges(Protocol):
    """What changed among this node's interfaces and routes; `bridges` are those whose ports changed."""

    @property
    def links(self) -> frozenset[int]: ...
    @property
    def gone(self) -> frozenset[int]: ...
    @property
    def bridges(self) -> frozenset[int]: ...
    @property
    def routes(self) -> frozenset[str]: ...
    @property
    def is_all(self) -> bool: ...


class Restored(Protocol):
    """An endpoint as the maps of an earlier agent hold it."""

    @property
    def address(self) -> str: ...
    @property
    def endpoint_id(self) -> int: ...
    @property
    def ifindex(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def node_mac(self) -> str: ...
    @property
    def identity(self) -> int: ...
    @property
    def flags(self) -> int: ...


@dataclass(slots=True, eq=False)
class Wanted:
    """A pod address of this node. `prefix` is its record (None: there is none), `known` what was put into the table.

    `bridge` is the one that it is behind (0: none), `looks` how often it was looked for there in vain since that changed, and
    `shared` the interface it leads to that is another address's (0: none).
    """

    address: str
    prefix: Prefix | None
    known: Endpoint | None = None
    delay_s: float = RETRY_MINIMUM_S
    bridge: int = 0
    looks: int = 0
    shared: int = 0

    @property
    def asked(self) -> tuple[str, int]:
        return self.address, self.known.ifindex if self.known is not None else 0


class EndpointDiscovery:
    """Keeps the endpoints table; a clock-free step that says when it wants to be called again."""

    def __init__(self, db: AgentDB, *, follows_ipv6: bool = False) -> None:
        self._db, self._follows_ipv6 = db, follows_ipv6
        self._ipv6 = Ipv6Addresses()
        self._was_listed = False
        self._wanted: dict[str, Wanted] = {}
        self._by_ifindex: dict[int, set[str]] = {}
        self._due: dict[str, None] = {}
        self._retry_at: dict[str, float] = {}
        self._recheck_at_s = RECHECK_S
        self._ids: dict[str, int] = {}
        self._next_id = 1
        self._seen = 0
        self._here = (db.node_address, db.former_addresses)

    def restore(self, values: Iterable[Restored], ipv6: Mapping[str, Sequence[str]] | None = None) -> None:
        """Pods that an earlier agent enforced keep their ids, and stay while their interfaces exist.

        `ipv6`: their addresses of that family, by address; they stay until the first listing says otherwise.
        """
        for value in values:
            is_port = bool(value.flags & EndpointFlag.BRIDGE_PORT)
            macs = (value.mac, value.node_mac)
            known = Endpoint(
                value.address, value.endpoint_id, value.ifindex, *macs, value.identity, "", "", is_bridge_port=is_port
            )
            if self._follows_ipv6 and ipv6:
                known = replace(known, ipv6=tuple(sorted(ipv6.get(value.address, ()))))
            self._ids[value.address] = value.endpoint_id
            self._wanted[value.address] = wanted = Wanted(value.address, None)
            self._know(wanted, known)
            self._due[value.address] = None
        self._next_id = max(self._ids.values(), default=0) + 1

    @property
    def waiting(self) -> tuple[str, ...]:
        """Addresses of pods of this node whose interface is not there (yet)."""
        return tuple(sorted(w.address for w in self._wanted.values() if w.known is None and not w.shared))

    @property
    def second(self) -> tuple[tuple[str, str], ...]:
        """Addresses on an interface that is another address's, each with that one: judged as it, and not sent from."""
        found = [(w.address, self._by_ifindex.get(w.shared)) for w in self._wanted.values() if w.shared]
        return tuple(sorted((address, min(owners)) for address, owners in found if owners))

    @property
    def of_ipv6_alone(self) -> tuple[Pod, ...]:
        """Pods of this node that have no address of IPv4."""
        named = {(w.prefix.namespace, w.prefix.name) for w in self._wanted.values() if w.prefix is not None}
        return tuple(sorted(self._ipv6.pods() - named))

    def note(self, changes: EndpointChanges) -> None:
        """The addresses that these changes concern are looked for at the next step, the others are not."""
        if changes.is_all:
            self._due.update(dict.fromkeys(self._wanted))
            return
        links = changes.links | changes.gone
        for ifindex in links:
            self._due.update(dict.fromkeys(self._by_ifindex.get(ifindex, ())))
        if links:
            self._note_bridges(links, changes.bridges)
        for route in changes.routes:
            address, _, bits = route.partition("/")
            if int(bits) == _HOST_BITS:
                if address in self._wanted:
                    self._due[address] = None
                continue
            network = IPv4Network(route, strict=False)
            self._due.update(dict.fromkeys(a for a in self._wanted if IPv4Address(a) in network))

    def _note_bridges(self, links: frozenset[int], bridges: frozenset[int]) -> None:
        """Who waits behind a bridge may be on a port that changed; who is found there has the bridge's own MAC as gateway."""
        for wanted in self._wanted.values():
            if wanted.bridge in links or (wanted.known is None and wanted.bridge in bridges):
                wanted.looks = 0
                self._due[wanted.address] = None

    def begin(self, now_s: float) -> list[Wanted]:
        """Every change so far is taken in; returns the addresses to look for."""
        self._take_changes()
        if not self._was_listed and self._db.prefixes.initialized:
            self._was_listed = True
            self._due.update({w.address: None for w in self._wanted.values() if w.known is not None and w.known.ipv6})
        if now_s >= self._recheck_at_s:
            self._recheck_at_s = now_s + RECHECK_S
            self._due.update(dict.fromkeys(self._wanted))
        for address in [a for a, at in self._retry_at.items() if at <= now_s]:
            del self._retry_at[address]
            self._due[address] = None
        due, self._due = self._due, {}
        return [wanted for address in due if (wanted := self._wanted.get(address)) is not None]

    def finish(self, due: Sequence[Wanted], seen: Sequence[Sighting], now_s: float) -> float:
        """What was seen is in the table, unless it changed meanwhile; returns when the next step is due."""
        at = {w.address: s.interface.ifindex for w, s in zip(due, seen, strict=True) if s.interface is not None}
        with self._db.write():
            for wanted, sighting in zip(due, seen, strict=True):
                if self._wanted.get(wanted.address) is wanted:
                    self._settle(wanted, sighting, at, now_s)
        return now_s if self._due else min([self._recheck_at_s, *self._retry_at.values()])

    def _settle(self, wanted: Wanted, sighting: Sighting, at: Mapping[str, int], now_s: float) -> None:
        address, row, interface = wanted.address, wanted.prefix, sighting.interface
        if sighting.error:
            self._retry_at[address] = now_s + wanted.delay_s
            wanted.delay_s = min(RETRY_MAXIMUM_S, wanted.delay_s * 2)
            log.warning("endpoint look-up failed", extra={"endpoint": address, "error": sighting.error})
            return
        wanted.delay_s, wanted.bridge = RETRY_MINIMUM_S, sighting.bridge
        wanted.shared = 0
        if interface is not None and self._is_taken(wanted, interface.ifindex, at):
            wanted.shared = interface.ifindex
        if wanted.shared or (interface is None and not (sighting.is_there and wanted.known is not None)):
            self._know(wanted, None)
            self._db.endpoints.delete(address)
            if row is None:
                self._forget(address)
            elif sighting.bridge and not wanted.shared and wanted.looks < len(LOOK_AGAIN_S):
                self._retry_at[address] = now_s + LOOK_AGAIN_S[wanted.looks]
                wanted.looks += 1
            return
        known = wanted.known or Endpoint(address, self._id_of(address), 0, "", "", 0, "", "")
        if interface is not None:
            if row is None and _is_another(known, interface):
                known = replace(known, identity=UNKNOWN, namespace="", pod="", named_ports=(), ipv6=())
            known = replace(known, ifindex=interface.ifindex, mac=interface.mac, node_mac=interface.node_mac)
            known = replace(known, is_bridge_port=bool(interface.bridge))
        if row is not None:
            known = replace(
                known, identity=row.identity, namespace=row.namespace, pod=row.name, named_ports=row.named_ports
            )
            kept = () if self._was_listed else known.ipv6
            known = replace(known, ipv6=tuple(sorted(self._ipv6.of(row.namespace, row.name).union(kept))))
        self._know(wanted, known)
        self._db.endpoints.put(known)

    def _is_taken(self, wanted: Wanted, ifindex: int, at: Mapping[str, int]) -> bool:
        """Another address had this interface first, and was not seen on another one meanwhile (`at`)."""
        owners = self._by_ifindex.get(ifindex, set())
        return wanted.address not in owners and any(at.get(owner, ifindex) == ifindex for owner in owners)

    def _know(self, wanted: Wanted, known: Endpoint | None) -> None:
        old, wanted.known = wanted.known, known
        if old is not None:
            self._by_ifindex[old.ifindex].discard(wanted.address)
            if not self._by_ifindex[old.ifindex]:
                del self._by_ifindex[old.ifindex]
                self._due.update({w.address: None for w in self._wanted.values() if w.shared == old.ifindex})
        if known is not None:
            self._by_ifindex.setdefault(known.ifindex, set()).add(wanted.address)

    def _take_changes(self) -> None:
        moved: list[str] = []
        for row, deleted in self._changes():
            address, _, bits = row.prefix.partition("/")
            if ":" in address:
                self._take_ipv6(address, row, deleted=deleted)
                continue
            known = self._wanted.get(address)
            if not deleted and self._is_ours(row):
                if not bits or int(bits) == _HOST_BITS:
                    self._want(address, row, known)
            elif known is not None and known.prefix is not None and not self._is_elsewhere(row, deleted=deleted):
                self._want(address, None, known)
            elif known is not None and self._is_elsewhere(row, deleted=deleted):
                moved.append(address)
        if moved:
            with self._db.write():
                for address in moved:
                    self._know(self._wanted[address], None)
                    self._db.endpoints.delete(address)
                    self._forget(address)

    def _take_ipv6(self, address: str, row: Prefix, *, deleted: bool) -> None:
        if not self._follows_ipv6:
            return
        is_pods = not deleted and self._is_ours(row) and row.prefix == f"{address}/{_HOST_BITS_OF_IPV6}"
        changed = self._ipv6.put(address, (row.namespace, row.name)) if is_pods else self._ipv6.drop(address)
        for wanted in self._wanted.values():
            if wanted.prefix is not None and (wanted.prefix.namespace, wanted.prefix.name) in changed:
                self._due[wanted.address] = None

    def _want(self, address: str, row: Prefix | None, known: Wanted | None) -> None:
        """A new object each time, so that a look-up under way for the old one is void."""
        self._wanted[address] = wanted = Wanted(address, row)
        if known is not None:
            wanted.known, wanted.bridge, wanted.shared = known.known, known.bridge, known.shared
        self._due[address] = None

    def _forget(self, address: str) -> None:
        self._wanted.pop(address, None)
        self._ids.pop(address, None)
        self._retry_at.pop(address, None)

    def _changes(self) -> list[tuple[Prefix, bool]]:
        """Prefixes that changed since the last call.

        When too many were forgotten, or this node's addresses are others, all of them and what we still had.
        """
        seen, self._seen = self._seen, self._db.prefixes.revision
        here, self._here = self._here, (self._db.node_address, self._db.former_addresses)
        try:
            if here == self._here:
                return [(c.row, c.deleted) for c in self._db.prefixes.changes_since(seen)]
        except HistoryLostError:
            pass
        had = [w.prefix for w in self._wanted.values() if w.prefix is not None]
        lost = [row for row in had if self._db.prefixes.get(row.prefix) is None]
        return [(row, True) for row in lost] + [(row, False) for row in self._db.prefixes.rows()]

    def _is_ours(self, row: Prefix) -> bool:
        return row.origin is ClaimOrigin.POD and row.cluster == self._db.own and self._db.is_here(row.host)

    def _is_elsewhere(self, row: Prefix, *, deleted: bool) -> bool:
        """Our own cluster says that this pod address is on another node.

        An address that no other node is known to have may be a new one of this node, of which we have not heard yet.
        """
        is_own_pod = row.origin is ClaimOrigin.POD and row.cluster == self._db.own
        return not deleted and is_own_pod and not self._db.is_here(row.host) and self._is_of_another_node(row.host)

    def _is_of_another_node(self, host: str) -> bool:
        own, name = self._db.own, self._db.node_name
        others = (n for n in self._db.nodes.rows() if n.cluster == own and n.name != name)
        return any(a.ip == host for n in others for a in n.addresses)

    def _id_of(self, address: str) -> int:
        """The id the address has, else the next one that nobody has."""
        known = self._ids.get(address)
        if known is not None:
            return known
        taken = set(self._ids.values())
        while self._next_id in taken or not 0 < self._next_id <= LAST_ID:
            self._next_id = self._next_id % LAST_ID + 1
        self._ids[address] = self._next_id
        self._next_id += 1
        return self._ids[address]


def _is_another(known: Endpoint, interface: Interface) -> bool:
    """Whether this is not the interface that the endpoint was known on: a number is used again, an address of a veth is not."""
    has_macs = _NO_MAC not in (known.mac, interface.mac)
    return known.ifindex != interface.ifindex or (has_macs and known.mac != interface.mac)
