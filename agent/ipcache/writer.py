# SPDX-License-Identifier: Apache-2.0
"""The only verbs on the prefixes table. Of several claims on one prefix the strongest is the row; the others wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.tables import AgentDB, ClaimOrigin, Node, Prefix
from meshmodel.identity import LOCAL_SCOPE_CIDR, UNKNOWN, Reserved, is_reserved
from meshmodel.names import ClusterName
from meshmodel.node import CILIUM_INTERNAL_IP

_STRENGTH = {ClaimOrigin.NODE: 0, ClaimOrigin.POD: 1, ClaimOrigin.POD_CIDR: 2, ClaimOrigin.POLICY: 3}

ClaimKey = tuple[ClaimOrigin, ClusterName, str]


class PrefixWriter:
    """Every method must be called inside `db.write()`; the result does not depend on the order of the calls."""

    def __init__(self, db: AgentDB, *, tunnels_own_cluster: bool = True) -> None:
        self._db, self._tunnels_own_cluster = db, tunnels_own_cluster
        self._weaker: dict[str, dict[ClaimKey, Prefix]] = {}  # all claims of a prefix that has more than one
        self._by_identity: dict[int, set[str]] = {}  # rows whose identity's labels come from a cluster's store
        self._node_claims: dict[tuple[ClusterName, str], tuple[Prefix, ...]] = {}
        self._policy_prefixes: dict[str, int] = {}
        self._node_identities: Mapping[tuple[ClusterName, str], int] = {}

    def set_pod(self, row: Prefix) -> None:
        """The pod address is as the row says; `tunnel` and `is_known` are decided here."""
        self._claim(replace(row, tunnel=self._tunnel_to(row), is_known=self._is_known(row.identity)))

    def delete_pod(self, cluster: ClusterName, prefix: str) -> bool:
        """No pod of the cluster has the address. Returns whether one had."""
        return self._withdraw(prefix, (ClaimOrigin.POD, cluster, ""))

    def set_node(self, node: Node) -> None:
        """The node's addresses and pod networks are claimed, and nothing else of what it claimed before."""
        key = (node.cluster, node.name)
        if node.cluster == self._db.own and not self._is_own(node):
            for taken in self._db.former_addresses.intersection(a.ip for a in node.addresses):
                self._db.give_up(taken)
                self._settle_tunnels(taken)
        is_own = self._is_own(node)
        identity = Reserved.HOST if is_own else self._node_identities.get(key, Reserved.REMOTE_NODE)
        is_tunnelled = self._is_tunnelled(node.cluster)
        claims = tuple(_node_prefixes(node, identity, is_own=is_own, is_tunnelled=is_tunnelled))
        kept = {c.prefix for c in claims}
        for old in self._node_claims.get(key, ()):
            if old.prefix not in kept:
                self._withdraw(old.prefix, _key(old))
        for claim in claims:
            self._claim(claim)
        self._node_claims[key] = claims

    def move_own_node(self, address: str) -> None:
        """This node has another address: pods that are said to be there are here."""
        self._db.move_to(address)
        self._settle_tunnels(address)

    def delete_node(self, cluster: ClusterName, name: str) -> None:
        for old in self._node_claims.pop((cluster, name), ()):
            self._withdraw(old.prefix, _key(old))

    def set_policy_prefixes(self, wanted: Mapping[str, int]) -> None:
        """Exactly these prefixes carry identities of CIDR rules."""
        own, own_id = self._db.own, self._db.own_id
        for prefix in self._policy_prefixes.keys() - wanted.keys():
            self._withdraw(prefix, (ClaimOrigin.POLICY, own, ""))
        for prefix, identity in wanted.items():
            if self._policy_prefixes.get(prefix) != identity:
                self._claim(Prefix(prefix, identity, "", own, own_id, ClaimOrigin.POLICY))
        self._policy_prefixes = dict(wanted)

    def set_node_identities(self, wanted: Mapping[tuple[ClusterName, str], int]) -> None:
        """The addresses of these other nodes have these identities, those of all others the one of every node."""
        before, self._node_identities = self._node_identities, dict(wanted)
        for key in before.keys() | wanted.keys():
            old, new = (int(known.get(key, Reserved.REMOTE_NODE)) for known in (before, wanted))
            if old == new:
                continue
            moved = tuple(
                replace(claim, identity=new) if claim.identity == old else claim
                for claim in self._node_claims.get(key, ())
            )
            for claim in moved:
                self._claim(claim)
            if moved:
                self._node_claims[key] = moved

    def set_identity_known(self, identity: int) -> None:
        """Addresses of this identity are what their records say from here on."""
        self._mark(identity, is_known=True)

    def set_identity_unknown(self, identity: int) -> None:
        """Addresses that still claim this identity are unknown from here on."""
        self._mark(identity, is_known=False)

    def drain_cluster(self, cluster: ClusterName, origins: Iterable[ClaimOrigin]) -> None:
        """No claim of these kinds by the cluster is left."""
        kinds = frozenset(origins)
        if ClaimOrigin.NODE in kinds:
            for owner, name in [k for k in self._node_claims if k[0] == cluster]:
                self.delete_node(owner, name)
        if ClaimOrigin.POD in kinds:
            rows = {r.prefix for r in self._db.prefixes.rows() if r.cluster == cluster and r.origin is ClaimOrigin.POD}
            rows.update(p for p, claims in self._weaker.items() if (ClaimOrigin.POD, cluster, "") in claims)
            for prefix in rows:
                self.delete_pod(cluster, prefix)

    def _is_own(self, node: Node) -> bool:
        return node.cluster == self._db.own and node.name == self._db.node_name

    def _is_known(self, identity: int) -> bool:
        return is_reserved(identity) or identity >= LOCAL_SCOPE_CIDR or self._db.identities.get(identity) is not None

    def _mark(self, identity: int, *, is_known: bool) -> None:
        for prefix in tuple(self._by_identity.get(identity, ())):
            for claim in tuple(self._claims(prefix).values()):
                if claim.identity == identity and claim.is_known != is_known:
                    self._claim(replace(claim, is_known=is_known))

    def _claims(self, prefix: str) -> dict[ClaimKey, Prefix]:
        claims = self._weaker.get(prefix)
        if claims is not None:
            return claims
        row = self._db.prefixes.get(prefix)
        return {} if row is None else {_key(row): row}

    def _claim(self, row: Prefix) -> None:
        if not is_reserved(row.identity) and row.identity < LOCAL_SCOPE_CIDR:
            self._by_identity.setdefault(row.identity, set()).add(row.prefix)
        claims = self._claims(row.prefix)
        old = claims.get(_key(row))
        if old == row:
            return
        claims[_key(row)] = row
        self._store(row.prefix, claims)
        if old is not None:
            self._forget(old)

    def _withdraw(self, prefix: str, key: ClaimKey) -> bool:
        claims = self._claims(prefix)
        old = claims.pop(key, None)
        if old is not None:
            self._store(prefix, claims)
            self._forget(old)
        return old is not None

    def _store(self, prefix: str, claims: dict[ClaimKey, Prefix]) -> None:
        if len(claims) > 1:
            self._weaker[prefix] = claims
        else:
            self._weaker.pop(prefix, None)
        if claims:
            self._db.prefixes.put(min(claims.values(), key=self._rank))
        else:
            self._db.prefixes.delete(prefix)

    def _settle_tunnels(self, host: str) -> None:
        """Pods of our cluster at this host are reached as the addresses of this node now say."""
        rows = {row.prefix: (row,) for row in self._db.prefixes.rows()} | {
            prefix: tuple(claims.values()) for prefix, claims in self._weaker.items()
        }
        for row in [row for claims in rows.values() for row in claims]:
            if row.origin is ClaimOrigin.POD and row.cluster == self._db.own and row.host == host:
                self._claim(replace(row, tunnel=self._tunnel_to(row)))

    def _tunnel_to(self, row: Prefix) -> str:
        return "" if self._db.is_here(row.host) or not self._is_tunnelled(row.cluster) else row.host

    def _is_tunnelled(self, cluster: ClusterName) -> bool:
        """Whether pods of other nodes of this cluster are reached through our overlay, or by the routes of its CNI."""
        return self._tunnels_own_cluster or cluster != self._db.own

    def _rank(self, row: Prefix) -> tuple[bool, bool, int, int, str, str]:
        """The own cluster wins over a peer, whatever the kind of claim; prefixes of policies are the weakest."""
        is_policy, is_peers = row.origin is ClaimOrigin.POLICY, row.cluster != self._db.own
        return (is_policy, is_peers, _STRENGTH[row.origin], row.cluster_id, row.cluster, row.name)

    def _forget(self, old: Prefix) -> None:
        """Drop the index entry of a claim that is gone, unless another claim on the prefix has the same identity."""
        users = self._by_identity.get(old.identity)
        if users is None or any(c.identity == old.identity for c in self._claims(old.prefix).values()):
            return
        users.discard(old.prefix)
        if not users:
            del self._by_identity[old.identity]


def _key(row: Prefix) -> ClaimKey:
    return (row.origin, row.cluster, row.name if row.origin in (ClaimOrigin.NODE, ClaimOrigin.POD_CIDR) else "")


def _node_prefixes(node: Node, identity: int, *, is_own: bool, is_tunnelled: bool) -> Iterable[Prefix]:
    """What a node record claims: its addresses with its identity, its pod networks as unknown pods behind it."""
    internal = node.internal_ip

    def claim(prefix: str, identity: int, origin: ClaimOrigin, *, is_behind: bool) -> Prefix:
        tunnel = internal if is_behind and is_tunnelled and not is_own else ""
        return Prefix(prefix, identity, tunnel, node.cluster, node.cluster_id, origin, host=internal, name=node.name)

    seen: set[str] = set()
    for address in node.addresses:
        prefix = host_prefix(address.ip)
        if prefix not in seen:
            seen.add(prefix)
            yield claim(prefix, identity, ClaimOrigin.NODE, is_behind=address.kind == CILIUM_INTERNAL_IP)
    for ip, kind in ((node.health_ip, Reserved.HEALTH), (node.ingress_ip, Reserved.INGRESS)):
        if ip and host_prefix(ip) not in seen:
            seen.add(host_prefix(ip))
            yield claim(host_prefix(ip), kind, ClaimOrigin.NODE, is_behind=True)
    for cidr in dict.fromkeys(node.pod_cidrs):
        yield claim(cidr, UNKNOWN, ClaimOrigin.POD_CIDR, is_behind=True)


def host_prefix(ip: str) -> str:
    """The prefix that holds this address only."""
    return f"{ip}/128" if ":" in ip else f"{ip}/32"
