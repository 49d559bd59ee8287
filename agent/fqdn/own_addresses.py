# SPDX-License-Identifier: Apache-2.0
"""Addresses that are never meant by a DNS name, whatever an answer says: those of the mesh, and what is no host outside."""

from __future__ import annotations

import ipaddress
from typing import Final

from agent.tables import AgentDB, ClaimOrigin, FrontendKey
from meshkit.table import HistoryLostError

_HOST: Final = "/32"


class OwnAddresses:
    """Pods, nodes, networks of pods and addresses of Services, of every cluster, as the tables say."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db
        self._frontends: dict[str, set[FrontendKey]] = {}
        self._seen_frontends = self._seen_prefixes = 0
        self._networks: frozenset[str] = frozenset()
        self._lengths: tuple[int, ...] = ()

    def take(self) -> tuple[set[str], bool]:
        """Addresses that became ours or are not any more since the last call; true if it may be any address."""
        touched = self._take_frontends()
        of_hosts, is_any = self._take_prefixes()
        return touched | of_hosts, is_any

    def why_not(self, address: str) -> str:
        """Why the address is never meant by a name, in few words; empty if it may be."""
        try:
            host = ipaddress.IPv4Address(address)
        except ValueError:
            return "not-ipv4"
        if host.is_loopback or host.is_link_local or host.is_multicast or host.is_unspecified or host.is_reserved:
            return "no-host"
        if address in self._frontends:
            return "service"
        row = self._db.prefixes.get(f"{address}{_HOST}")
        if row is not None and row.origin is not ClaimOrigin.POLICY:
            return "mesh"
        number = int(host)
        for bits in self._lengths:
            if f"{ipaddress.IPv4Address(number >> (32 - bits) << (32 - bits))}/{bits}" in self._networks:
                return "mesh"
        return ""

    def _take_frontends(self) -> set[str]:
        seen, self._seen_frontends = self._seen_frontends, self._db.frontends.revision
        try:
            changes = [(change.key, not change.deleted) for change in self._db.frontends.changes_since(seen)]
        except HistoryLostError:
            changes = [(key, False) for keys in self._frontends.values() for key in keys]
            changes += [(row.key, True) for row in self._db.frontends.rows()]
        touched = set[str]()
        for key, is_there in changes:
            keys = self._frontends.setdefault(key.address, set())
            (keys.add if is_there else keys.discard)(key)
            if not keys:
                del self._frontends[key.address]
            touched.add(key.address)
        return touched

    def _take_prefixes(self) -> tuple[set[str], bool]:
        seen, self._seen_prefixes = self._seen_prefixes, self._db.prefixes.revision
        try:
            keys = [change.key for change in self._db.prefixes.changes_since(seen)]
        except HistoryLostError:
            keys = [*self._networks, *(row.prefix for row in self._db.prefixes.rows())]
        hosts = {key for key in keys if key.endswith(_HOST)}
        networks = set(keys) - hosts
        found = (self._networks - networks) | {key for key in networks if self._is_mesh(key)}
        is_any = found != self._networks
        if is_any:
            self._networks = found
            self._lengths = tuple(sorted({int(prefix.rpartition("/")[2]) for prefix in found if ":" not in prefix}))
        return {key.removesuffix(_HOST) for key in hosts}, is_any

    def _is_mesh(self, prefix: str) -> bool:
        row = self._db.prefixes.get(prefix)
        return row is not None and row.origin is not ClaimOrigin.POLICY
