# SPDX-License-Identifier: Apache-2.0
"""Which addresses of pods peers may hear of: those that the pod's node enforces and forwards for, as its agent says (ADR 30).

A pod's address that was confirmed once stays announced while the pod lives, whatever becomes of the agent, its Lease or this
program. Where no agent has a Lease nothing is waited for. Addresses that are no pod's, such as those of nodes, need no word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from clustermesh_apiserver.tables import IntentTable, Tables
from kubeintent.rows import ConfirmationIntent, NodeIntent, PodIntent, SliceIntent
from meshmodel.keys import Kind

Asker = tuple[Kind, str]
"""A kind of record and the key of the row it is made from."""

MAX_LISTING_WAIT_S: Final = 30.0
_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class WaitingNode:
    """Pods of one node that are not announced, as its agent has not confirmed them. `since_s` is monotonic time.

    `renewed` is when the agent wrote its Lease last (RFC 3339); empty if it never did.
    """

    node: str
    pods: tuple[str, ...]
    since_s: float
    renewed: str


class Confirmations:
    """What is confirmed, and who is to be converted again when something is: `on_news` is called with those rows."""

    def __init__(self, tables: Tables, *, now: Callable[[], float]) -> None:
        self._tables, self._now = tables, now
        self.on_news: Callable[[Kind, Iterable[str]], None] = lambda _kind, _rows: None
        self._confirmed: dict[str, tuple[str, frozenset[str]]] = {}  # by pod: its uid, and addresses
        self._of_first_listing: dict[str, str] = {}  # uids
        self._owners: dict[str, tuple[str, ...]] = {}  # pods by address
        self._told: set[str] = set()  # confirmed addresses of pods, as far as somebody asked since the pods changed
        self._hosts: dict[str, None] = {}  # addresses of pods on the host network
        self._waiting: dict[str, tuple[str, float]] = {}  # by pod: its node, since when
        self._askers: dict[str, dict[Asker, float]] = {}  # by address that was refused, since when
        self._by_node: dict[str, ConfirmationIntent] = {}
        self._first_created = ""
        self._listing_since: float | None = None
        self._gave_up = False

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        """Tables without which nothing can be concluded; Leases may be forbidden to us, and are not waited for without end."""
        tables = self._tables
        if tables.confirmations.synced or self._gave_up:
            return (tables.nodes,)
        if self._listing_since is None:
            self._listing_since = self._now()
        if self._now() - self._listing_since < MAX_LISTING_WAIT_S:
            return (tables.nodes, tables.confirmations)
        self._gave_up = True
        return (tables.nodes,)

    @property
    def backends_need(self) -> Sequence[IntentTable[Any]]:
        """The same for addresses of services: whose they are must be known too."""
        return () if self._tables.is_cilium else (*self.needs, self._tables.pods)

    @property
    def is_active(self) -> bool:
        """Whether any agent of this cluster speaks for its pods."""
        return bool(self._by_node) and not self._tables.is_cilium

    def unconfirmed(self, key: str) -> frozenset[str]:
        """Addresses of this pod that peers must not hear of yet."""
        pod = self._tables.pods.get(key)
        if pod is None:
            return _NONE
        uid, known = self._confirmed.get(key, ("", _NONE))
        if uid != pod.uid:
            known = _NONE
        missing = frozenset(pod.ips) - known
        if missing:
            found = frozenset(ip for ip in missing if self._is_confirmed(key, pod, ip))
            if found:
                self._confirmed[key] = (pod.uid, known | found)
                missing -= found
        if missing:
            self._waiting.setdefault(key, (pod.node, self._now()))
        else:
            self._waiting.pop(key, None)
        return missing

    def announced(self, piece: SliceIntent, asker: Asker) -> SliceIntent:
        """The slice without addresses that peers must not hear of yet; the asker is news when one of them may be told."""
        if not self.is_active:
            return piece
        known = self._told
        refused = {
            ip
            for e in piece.endpoints
            for ip in e.addresses
            if ip not in known and not self._may_be_told(ip, is_pod=e.is_pod)
        }
        if not refused:
            return piece
        for ip in refused:
            self._askers.setdefault(ip, {}).setdefault(asker, self._now())
        kept = (e._replace(addresses=tuple(ip for ip in e.addresses if ip not in refused)) for e in piece.endpoints)
        return replace(piece, endpoints=tuple(e for e in kept if e.addresses))

    def waiting(self) -> list[WaitingNode]:
        """By node; without pods of which peers do not hear anyway."""
        found: dict[str, list[str]] = {}
        for key, (node, _) in self._waiting.items():
            namespace = self._tables.namespaces.get(key.partition("/")[0])
            if namespace is not None and namespace.is_global:
                found.setdefault(node, []).append(key)
        return [
            WaitingNode(
                node,
                tuple(sorted(keys)),
                min(self._waiting[key][1] for key in keys),
                self._by_node[node].renewed if node in self._by_node else "",
            )
            for node, keys in sorted(found.items())
        ]

    def strangers(self) -> list[tuple[str, str, float]]:
        """Addresses that an EndpointSlice calls a pod's, and that no pod has: the address, the row, since when (monotonic)."""
        found = []
        for ip, askers in sorted(self._askers.items()):
            if ip in self._owners:
                continue
            for asker in [asker for asker in askers if not self._calls_pod(asker, ip)]:
                del askers[asker]  # its slice was mended, or is gone
            found += [(ip, key, since_s) for (_, key), since_s in list(askers.items())[:1]]
        self._askers = {ip: askers for ip, askers in self._askers.items() if askers}
        return found

    def silent_nodes(self) -> list[str]:
        """Nodes whose agent never said anything, as others do, and whose pods are announced nevertheless."""
        if not self.is_active:
            return []
        nodes = self._tables.nodes.keys()
        return sorted(name for name in nodes if name not in self._by_node and not self._joined_later(name))

    # ---- changes

    def pod_changed(self, key: str, before: PodIntent | None, after: PodIntent | None) -> None:
        """The table of pods has the row after the change."""
        old, new = (before.ips if before is not None else ()), (after.ips if after is not None else ())
        self._told.difference_update(old)
        self._set_owner(key, old, new)
        if after is None:
            self._confirmed.pop(key, None)
            self._of_first_listing.pop(key, None)
        else:
            if not self._tables.pods.synced:
                self._of_first_listing[key] = after.uid
            if after.uses_host_network and after.host_ip:
                self._hosts[after.host_ip] = None
        if after is None or (before is not None and (before.uid, before.node) != (after.uid, after.node)):
            self._waiting.pop(key, None)
        if self.is_active:
            self.unconfirmed(key)
            self._tell({*old, *new, *((after.host_ip,) if after is not None else ())})
        elif after is not None and (self._tables.confirmations.synced or self._gave_up):
            self._take_as_confirmed(key, after)

    def node_changed(self, key: str, before: NodeIntent | None, after: NodeIntent | None) -> None:
        """The table of nodes has the row after the change."""
        self._look_again(key)
        self._tell({ip for row in (before, after) if row is not None for _, ip in row.addresses})

    def confirmation_changed(self, before: ConfirmationIntent | None, after: ConfirmationIntent | None) -> None:
        """What this node's agent says changed. When the first agent begins to speak, what is announced stays so."""
        if not self._by_node and after is not None and (self._tables.confirmations.synced or self._gave_up):
            for key, pod in self._tables.pods.items():
                self._take_as_confirmed(key, pod)
        for row in (before, after):
            if row is not None:
                self._by_node.pop(row.node, None)
        if after is not None:
            self._by_node[after.node] = after
        self._first_created = min((row.created for row in self._by_node.values() if row.created), default="")
        for node in {row.node for row in (before, after) if row is not None}:
            self._look_again(node)
        if not self._by_node:
            for node in {node for node, _ in self._waiting.values()}:
                self._look_again(node)
            self._tell(list(self._askers))

    def _set_owner(self, key: str, old: Sequence[str], new: Sequence[str]) -> None:
        for ip in set(old) - set(new):
            left = tuple(owner for owner in self._owners.pop(ip, ()) if owner != key)
            if left:
                self._owners[ip] = left
        for ip in new:
            if key not in self._owners.get(ip, ()):
                self._owners[ip] = (*self._owners.get(ip, ()), key)

    def _take_as_confirmed(self, key: str, pod: PodIntent) -> None:
        if pod.ips:
            self._confirmed[key] = (pod.uid, frozenset(pod.ips))

    def _look_again(self, node: str) -> None:
        for key in [key for key, (found, _) in self._waiting.items() if found == node]:
            pod, left = self._tables.pods.get(key), self.unconfirmed(key)
            if pod is not None and len(left) < len(pod.ips):
                self.on_news(Kind.IPS, (key,))
                self._tell(set(pod.ips) - left)

    def _tell(self, addresses: Collection[str]) -> None:
        """Who was refused one of these addresses asks again."""
        if not self._askers:
            return
        for ip in addresses:
            for kind, key in self._askers.pop(ip, ()):
                self.on_news(kind, (key,))

    # ---- decisions

    def _calls_pod(self, asker: Asker, ip: str) -> bool:
        """Whether a slice of who asked still calls the address a pod's."""
        kind, key = asker
        names = self._tables.slices.in_group(key) if kind is Kind.SERVICES else (key,)
        rows = (self._tables.slices.get(name) for name in names)
        return any(e.is_pod and ip in e.addresses for row in rows if row is not None for e in row.endpoints)

    def _may_be_told(self, ip: str, *, is_pod: bool) -> bool:
        owners = self._owners.get(ip)
        if owners is None:
            return not is_pod or ip in self._hosts or self._is_node_address(ip)
        if all(ip in self.unconfirmed(key) for key in owners):
            return False
        self._told.add(ip)
        return True

    def _is_node_address(self, ip: str) -> bool:
        return any(ip == found for row in self._tables.nodes.rows() for _, found in row.addresses)

    def _is_confirmed(self, key: str, pod: PodIntent, ip: str) -> bool:
        if not self.is_active or not pod.node:
            return True
        word = self._by_node.get(pod.node)
        if word is None:
            return not self._joined_later(pod.node)
        said = word.pods.get(ip)
        if said is None:
            return False
        is_by_name = said == f"{pod.namespace}/{pod.name}" and self._of_first_listing.get(key) == pod.uid
        return (said == pod.uid and said != "") or is_by_name

    def _joined_later(self, node: str) -> bool:
        """The node came when agents spoke already: its own will, unlike those of an earlier release."""
        row = self._tables.nodes.get(node)
        return row is None or (bool(self._first_created) and row.created > self._first_created)
