# SPDX-License-Identifier: Apache-2.0
"""Which addresses and networks a cluster may speak for. Pure.

The own cluster is believed and always wins. A peer may claim what nobody else has claimed, but never loopback, link-local,
multicast or unspecified addresses, nor a network wider than /8 (IPv4) or /16 (IPv6); where its connection file has lists of
networks, only what they contain. Among peers the first claim holds. `settle` tells what changed to the `judges`, so that records
that were refused, or accepted before somebody with a better claim spoke, are judged again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from agent.mesh.accepted import Accepted, near, neighbourhood
from agent.mesh.blocks import Block, BlockIndex, block_of
from agent.tables import Node
from meshmodel.identity import FIRST_ALLOCATED, UNKNOWN, Reserved
from meshmodel.names import ClusterName, ServiceName
from meshmodel.node import EXTERNAL_IP, INTERNAL_IP
from meshpeer.allowed import WIDEST, Allowed

NEVER: Final[BlockIndex[str]] = BlockIndex()
for _network, _what in (
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/127", "unspecified or loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("100::/64", "for packets to be discarded"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
):
    NEVER.add(block_of(_network), _what)
AROUND_SERVICE: Final = {4: 24, 6: 120}
"""Cluster addresses of our services are ours with the network of this length around."""
EVERYTHING: Final = (Block(4, 0, 0), Block(6, 0, 0))
_OF_HOST: Final = frozenset({INTERNAL_IP, EXTERNAL_IP})


class ClaimChange(NamedTuple):
    """A network that the cluster claims from now on, or does not claim any more."""

    block: Block
    cluster: ClusterName
    is_added: bool


class ClaimRefusal(NamedTuple):
    """Why a claim is not believed, and the network whose change may make it believable.

    `is_unlisted`: only the connection file's list stands against it.
    """

    reason: str
    block: Block
    is_unlisted: bool = False


@dataclass(slots=True)
class _Cluster:
    nodes: dict[str, tuple[Node, tuple[Block, ...]]] = field(default_factory=dict)
    claims: Counter[Block] = field(default_factory=Counter)
    roles: dict[str, Counter[int]] = field(default_factory=dict)  # node address: reserved identities it may have
    pods: tuple[Block, ...] = ()  # what pods and node addresses must be in; empty: no such list
    hosts: tuple[Block, ...] = ()
    accepted: Accepted = field(default_factory=Accepted)


class Networks:
    """What every cluster claims: addresses and pod networks of its nodes; of the own one also pods and services."""

    def __init__(self, own: ClusterName) -> None:
        self._own = own
        self._clusters: dict[ClusterName, _Cluster] = {}
        self._holders: BlockIndex[ClusterName] = BlockIndex()
        self._pods: set[Block] = set()
        self._services: dict[ServiceName, tuple[Block, ...]] = {}
        self._service_networks: tuple[Block, ...] = ()
        self._this_node: tuple[Block, ...] = ()
        self._balancers: dict[ServiceName, tuple[Block, ...]] = {}
        self._balancer_of: dict[Block, set[ServiceName]] = {}
        self._changes: list[ClaimChange] = []
        self.judges: list[Callable[[Sequence[ClaimChange]], int]] = []

    # ---- claims

    def set_node(self, node: Node) -> None:
        """The node's addresses and pod networks are its cluster's, and nothing else of what it claimed before."""
        cluster = self._cluster(node.cluster)
        blocks = tuple({block_of(text): None for text in (*(address for address, _ in _roles(node)), *node.pod_cidrs)})
        old = cluster.nodes.get(node.name)
        cluster.nodes[node.name] = (node, blocks)
        self._replace(node.cluster, () if old is None else old[1], blocks)
        _set_roles(cluster, None if old is None else old[0], node)

    def delete_node(self, name: ClusterName, node: str) -> None:
        cluster = self._cluster(name)
        old = cluster.nodes.pop(node, None)
        if old is not None:
            self._replace(name, old[1], ())
            _set_roles(cluster, old[0], None)

    def set_this_node(self, prefixes: Iterable[str]) -> None:
        """What the agent's own node has is ours as long as the agent runs, whatever becomes of the node's record."""
        old, self._this_node = self._this_node, tuple({block_of(text): None for text in prefixes})
        self._replace(self._own, old, self._this_node)

    def set_own_pod(self, prefix: str) -> None:
        """A pod of ours has this address, wherever its CNI took it from."""
        clear, place = self._cluster(self._own).accepted.clear, near(prefix)
        if place in clear:
            return
        block = block_of(prefix)
        if place and self._is_ours(around := Block(4, 24, block.value >> 8)):
            clear[place] = around
        elif not self._is_ours(block):
            self._pods.add(block)
            self._add(self._own, block)

    def delete_own_pod(self, prefix: str) -> None:
        if self._pods and (block := block_of(prefix)) in self._pods:
            self._pods.discard(block)
            self._remove(self._own, block)

    def set_own_service_networks(self, prefixes: Iterable[str]) -> None:
        """What cluster addresses of our services are taken from is ours, also where no service has one yet."""
        new = tuple(dict.fromkeys(map(block_of, prefixes)))
        old, self._service_networks = self._service_networks, new
        self._replace(self._own, old, new)

    def own_services(self) -> tuple[ServiceName, ...]:
        """Services of ours whose addresses are known here."""
        return tuple({**self._services, **self._balancers})

    def set_own_service(self, name: ServiceName, cluster_ips: Iterable[str], load_balancer_ips: Iterable[str]) -> None:
        """Addresses of a service of ours; the network around a cluster address is ours too.

        A load balancer's address is a field that others than Kubernetes may write. It is ours, but not where a person lets a
        peer own it by a list: that decides, and not who spoke first.
        """
        balancers = tuple(dict.fromkeys(block_of(ip) for ip in load_balancer_ips))
        for block in self._balancers.pop(name, ()):
            self._balancer_of[block].discard(name)
            if not self._balancer_of[block]:
                del self._balancer_of[block]
        if balancers:
            self._balancers[name] = balancers
            for block in balancers:
                self._balancer_of.setdefault(block, set()).add(name)
        blocks = [_around(block_of(ip)) for ip in cluster_ips]
        self._set_service_blocks(name, [*blocks, *(block for block in balancers if not self._is_listed(block))])

    def allow(self, name: ClusterName, allowed: Allowed) -> None:
        """The peer may claim only what these lists contain."""
        cluster = self._cluster(name)
        pods, hosts = (tuple(map(block_of, texts)) for texts in (allowed.networks, allowed.node_networks))
        if (pods, hosts) != (cluster.pods, cluster.hosts):
            cluster.pods, cluster.hosts = pods, hosts
            cluster.accepted.end_clear()
            self._judge_balancers()

    def drop(self, name: ClusterName) -> None:
        """The cluster claims nothing, and has nothing."""
        for node in list(self._cluster(name).nodes):
            self.delete_node(name, node)
        del self._clusters[name]
        self._judge_balancers()
        self._changes += [ClaimChange(block, name, is_added=False) for block in EVERYTHING]

    def release(self, name: ClusterName, prefix: str) -> None:
        """The cluster gave up an address outside its nodes' networks: what others were refused for it is judged again."""
        self._changes.append(ClaimChange(block_of(prefix), name, is_added=False))

    def settle(self) -> int:
        """Every judge has the claims made and given up since the last call, and those that judging them led to.

        Returns how many records they looked at.
        """
        looked_at = 0
        while self._changes:
            changes, self._changes = self._changes, []
            looked_at += sum(judge(changes) for judge in tuple(self.judges))
        return looked_at

    # ---- judgement

    def admit(self, node: Node) -> tuple[Node | None, list[ClaimRefusal]]:
        """What may be believed of a node record, None without a usable address, and what was refused of it."""
        if node.cluster == self._own:
            return node, []
        refusals: list[ClaimRefusal] = []
        pods, hosts = self._cluster(node.cluster).pods, self._cluster(node.cluster).hosts

        def is_fine(text: str, what: str, lists: tuple[Block, ...]) -> bool:
            refusal = self._refuse(node.cluster, block_of(text), lists)
            if refusal is not None:
                refusals.append(refusal._replace(reason=f"{what} {refusal.reason}"))
            return refusal is None

        addresses = tuple(a for a in node.addresses if is_fine(a.ip, a.kind, hosts if a.kind in _OF_HOST else pods))
        health = node.health_ip if node.health_ip and is_fine(node.health_ip, "HealthIP", pods) else ""
        ingress = node.ingress_ip if node.ingress_ip and is_fine(node.ingress_ip, "IngressIP", pods) else ""
        cidrs = tuple(c for c in node.pod_cidrs if is_fine(c, "pod network", pods))
        if node.addresses and not addresses:
            return None, refusals
        return replace(node, addresses=addresses, health_ip=health, ingress_ip=ingress, pod_cidrs=cidrs), refusals

    def refuse_address(self, name: ClusterName, address: str) -> ClaimRefusal | None:
        """Why the cluster may not speak for this address or prefix; None if it may."""
        if name == self._own:
            return None
        cluster = self._cluster(name)
        clear, place = cluster.accepted.clear, near(address)
        if place in clear:
            return None
        block = block_of(address)
        around = neighbourhood(block)
        if around in clear:
            return None
        if around is not None and self._refuse(name, around, cluster.pods) is None:
            clear[place or around] = around
            return None
        is_node = address.partition("/")[0] in cluster.roles
        refusal = self._refuse(name, block, () if is_node else cluster.pods)
        if refusal is None:
            cluster.accepted.note(around if around is not None and block.version == 6 else block)
        return refusal

    def may_have_all(self, name: ClusterName, addresses: Iterable[str]) -> bool:
        """Whether each of these IPv4 addresses is in a /24 that `refuse_address` has found clear of claims of other clusters.

        False decides nothing: ask `refuse_address` for each address then.
        """
        cluster = self._clusters.get(name)
        if cluster is None:
            return False
        clear = cluster.accepted.clear
        return all(address[: address.rfind(".")] in clear for address in addresses)

    def is_plain(self, name: ClusterName, address: str, host: str, identity: int) -> bool:
        """Whether a pod's address, tunnel endpoint and identity are all believed, told at once: most are."""
        cluster = self._clusters.get(name)
        return (
            cluster is not None
            and identity >= FIRST_ALLOCATED
            and address.endswith("/32")
            and address[: address.rfind(".")] in cluster.accepted.clear
            and (not host or host in cluster.roles)
        )

    def refuse_host(self, name: ClusterName, host: str) -> ClaimRefusal | None:
        """Why tunnels for pods of the cluster may not lead there: only to addresses of its own nodes."""
        if name == self._own or not host or host in self._cluster(name).roles:
            return None
        return ClaimRefusal(f"tunnel endpoint {host} is no node of cluster {name}", block_of(host))

    def refuse_identity(self, name: ClusterName, address: str, identity: int) -> ClaimRefusal | None:
        """Why an address of the cluster may not have this identity.

        Reserved identities are for addresses of its nodes: `remote-node`, or what the node record says (`health`, `ingress`).
        """
        if name == self._own or identity >= FIRST_ALLOCATED or identity == UNKNOWN:
            return None
        if identity in self._cluster(name).roles.get(address.partition("/")[0], ()):
            return None
        return ClaimRefusal(f"reserved identity {identity} for {address}, which no node record says", block_of(address))

    def may_hold(self, name: ClusterName, block: Block) -> bool:
        """Whether an address in this network, which another cluster claims, was ever accepted of this one: false is certain."""
        is_claimed = any(holder == name for _, holder in self._holders.overlapping(block))
        return is_claimed or self._cluster(name).accepted.overlaps(block)

    def recount(self, name: ClusterName, held: Callable[[], Iterable[str]]) -> None:
        """What was accepted of the cluster is what it has now, once very much more is remembered: it may tell and take back.

        `held` are all addresses of its pods and backends and all tunnel endpoints of its pods.
        """
        accepted = self._cluster(name).accepted
        if name == self._own or not accepted.is_large:
            return
        accepted.forget()
        for address in held():
            if self.refuse_address(name, address) is not None:
                accepted.note(block_of(address))  # a tunnel endpoint that is no node of it any more
        accepted.counted()

    # ---- inside

    def _cluster(self, name: ClusterName) -> _Cluster:
        found = self._clusters.get(name)
        if found is None:
            found = self._clusters[name] = _Cluster()
        return found

    def _refuse(self, name: ClusterName, block: Block, lists: tuple[Block, ...]) -> ClaimRefusal | None:
        if block.length < WIDEST[block.version]:
            return ClaimRefusal(f"{block} is wider than /{WIDEST[block.version]}", block)
        for _, what in NEVER.overlapping(block):
            return ClaimRefusal(f"{block} is {what}", block)
        for held, holder in self._holders.overlapping(block):
            if holder != name:
                services = sorted(self._balancer_of.get(held, ())) if holder == self._own else []
                where = f"load balancer of Service {', '.join(map(str, services))}" if services else str(held)
                return ClaimRefusal(f"{block} belongs to cluster {holder} ({where})", block)
        if lists and not any(allowed.covers(block) for allowed in lists):
            return ClaimRefusal(f"{block} is not in the networks its connection file allows", block, True)
        return None

    def _set_service_blocks(self, name: ServiceName, blocks: Iterable[Block]) -> None:
        new = tuple(dict.fromkeys(blocks))
        self._replace(self._own, self._services.pop(name, ()), new)
        if new:
            self._services[name] = new

    def _judge_balancers(self) -> None:
        """Lists changed: addresses of load balancers may be ours now, or not any more."""
        for name, balancers in self._balancers.items():
            rest = [block for block in self._services.get(name, ()) if block not in balancers]
            self._set_service_blocks(name, [*rest, *(block for block in balancers if not self._is_listed(block))])

    def _is_listed(self, block: Block) -> bool:
        """Whether some peer's list of pod networks or node networks has it."""
        return any(allowed.covers(block) for c in self._clusters.values() for allowed in (*c.pods, *c.hosts))

    def _is_ours(self, block: Block) -> bool:
        return any(holder == self._own for _, holder in self._holders.covering(block))

    def _replace(self, name: ClusterName, old: Iterable[Block], new: Iterable[Block]) -> None:
        for block in new:
            self._add(name, block)
        for block in old:
            self._remove(name, block)

    def _add(self, name: ClusterName, block: Block) -> None:
        claims = self._cluster(name).claims
        claims[block] += 1
        if claims[block] == 1:
            self._holders.add(block, name)
            self._changes.append(ClaimChange(block, name, is_added=True))
            for other, cluster in self._clusters.items():
                if other != name:
                    cluster.accepted.unclear(block)

    def _remove(self, name: ClusterName, block: Block) -> None:
        claims = self._cluster(name).claims
        claims[block] -= 1
        if claims[block] <= 0:
            del claims[block]
            self._holders.discard(block, name)
            if name == self._own:
                self._cluster(name).accepted.clear.clear()
            self._changes.append(ClaimChange(block, name, is_added=False))


def _set_roles(cluster: _Cluster, old: Node | None, new: Node | None) -> None:
    for address, identity in _roles(new):
        cluster.roles.setdefault(address, Counter())[identity] += 1
    for address, identity in _roles(old):
        counts = cluster.roles[address]
        counts[identity] -= 1
        if not counts[identity]:
            del counts[identity]
        if not counts:
            del cluster.roles[address]
            cluster.accepted.note(block_of(address))  # tunnels may lead there still


def _roles(node: Node | None) -> list[tuple[str, int]]:
    """Addresses of a node with the reserved identity each may have."""
    if node is None:
        return []
    found = [(address.ip, int(Reserved.REMOTE_NODE)) for address in node.addresses]
    found += [(node.health_ip, int(Reserved.HEALTH))] if node.health_ip else []
    return found + ([(node.ingress_ip, int(Reserved.INGRESS))] if node.ingress_ip else [])


def _around(block: Block) -> Block:
    length = AROUND_SERVICE[block.version]
    return Block(block.version, length, block.value >> (block.length - length))
