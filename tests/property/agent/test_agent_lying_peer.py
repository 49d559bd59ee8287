# SPDX-License-Identifier: Apache-2.0
"""Law: whatever a peer publishes, in whatever order, nobody else loses anything and nothing of others becomes the peer's.

North is our cluster and east an honest peer. South sends records of every kind with addresses, numbers, names and labels of
others, odd ones, and records of one kind under the keys of another. West says as south does, under its own name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.blocks import Block, block_of
from agent.mesh.ingest import Ingest, Writers
from agent.mesh.networks import Networks
from agent.mesh.rejections import Rejections
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB
from meshkit.clock import ManualClock
from meshmodel.cluster_config import ClusterConfig
from meshmodel.endpointslice import SERVICE_NAME_LABEL, ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.identity import FIRST_ALLOCATED, Reserved
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.support.effort import examples

NORTH, EAST, SOUTH, WEST = (ClusterName(name) for name in ("north", "east", "south", "west"))
IDS: Final = {NORTH: 1, SOUTH: 2, EAST: 3, WEST: 4}
MOST_ROUNDS: Final = 50
"""Of judging claims again, that one record may cause."""
SHARED = ServiceName("shop", "cart")
OURS: Final = ("172.18.0.2", "10.1.0.0/24", "10.1.0.3", "192.168.7.9", "10.96.0.10", "172.18.9.1", "fd00:1::9")
EASTS: Final = ("172.18.0.8", "10.3.0.0/24", "10.3.0.9")
NOBODYS: Final = (
    "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/8", "255.255.255.255", "::1", "::", "fe80::/10", "ff00::/8",
    "::ffff:0:0/96",
)  # fmt: skip
VICTIMS: Final = tuple(block_of(text) for text in (*OURS, *EASTS, *NOBODYS))
KINDS: Final = (Kind.NODES, Kind.IDENTITIES, Kind.IPS, Kind.SERVICES, Kind.ENDPOINT_SLICES)

Record = tuple[Kind, bytes, bytes | None]


# ---- what is published


def node(cluster: str, name: str, ip: str, cidr: str, **more: Any) -> Record:
    wire = {
        "Name": name, "Cluster": cluster, "ClusterID": IDS.get(ClusterName(cluster), 9), "IPv4AllocCIDR": cidr,
        "IPAddresses": [{"Type": "InternalIP", "IP": ip}],
    }  # fmt: skip
    return Kind.NODES, name.encode(), json.dumps(wire | more).encode()


def pod(ip: str, identity: int, host: str, key: str = "") -> Record:
    wire = {"IP": ip, "Mask": None, "HostIP": host, "ID": identity, "K8sNamespace": "shop", "K8sPodName": "p"}
    return Kind.IPS, (key or ip).encode(), json.dumps(wire).encode()


def identity(number: int, *labels: str) -> Record:
    return Kind.IDENTITIES, str(number).encode(), "".join(f"{label};" for label in labels).encode()


def service(cluster: str, number: int, name: ServiceName, ips: Iterable[str]) -> Record:
    wire = {
        "cluster": cluster, "clusterID": number, "namespace": name.namespace, "name": name.name, "shared": True,
        "frontends": {}, "backends": {ip: {"": {"Protocol": "TCP", "Port": 80}} for ip in ips},
    }  # fmt: skip
    return Kind.SERVICES, f"{name.namespace}/{name.name}".encode(), json.dumps(wire).encode()


def endpoint_slice(cluster: str, number: int, name: ServiceName, ips: Sequence[str]) -> Record:
    record = ClusterEndpointSlice(
        cluster=ClusterName(cluster),
        cluster_id=ClusterId(number),
        namespace=name.namespace,
        name=f"{name.name}-1",
        labels={SERVICE_NAME_LABEL: name.name},
        endpoints=tuple(SliceEndpoint(addresses=(ip,)) for ip in ips),
        ports=(SlicePort("", "TCP", 80),),
    )
    return Kind.ENDPOINT_SLICES, f"{name.namespace}/{name.name}-1".encode(), record.encode()


def label_of(cluster: str) -> str:
    return f"k8s:io.cilium.k8s.policy.cluster={cluster}"


def number_of(cluster: ClusterName, number: int = 7) -> int:
    return (IDS[cluster] << 16) + number


OURS_PUBLISHED: Final = [
    node(NORTH, "n1", "172.18.0.2", "10.1.0.0/24", IPv4HealthIP="10.1.0.3"),
    identity(number_of(NORTH), "k8s:app=cart", label_of(NORTH)),
    pod("10.1.0.9", number_of(NORTH), "172.18.0.2"),
    pod("192.168.7.9", number_of(NORTH), "172.18.0.2"),
    pod("fd00:1::9", number_of(NORTH), "172.18.0.2"),
]
EASTS_PUBLISHED: Final = [
    node(EAST, "e1", "172.18.0.8", "10.3.0.0/24"),
    identity(number_of(EAST), "k8s:app=cart", label_of(EAST)),
    pod("10.3.0.9", number_of(EAST), "172.18.0.8"),
    service(EAST, IDS[EAST], SHARED, ["10.3.0.9"]),
]

stolen = st.sampled_from(
    [text.partition("/")[0] for text in (*OURS, *EASTS, *NOBODYS)]
    + [
        "10.1.0.9",
        "10.3.0.9",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "::ffff:10.1.0.9",
        "010.1.0.9",
        "10.1.0.9 ",
        "",
    ]
)
true = st.sampled_from(["10.2.0.7", "10.2.0.8", "172.18.0.5", "172.18.0.6", "fd00:2::7"])
addresses = st.one_of(true, stolen)
networks = st.one_of(
    st.sampled_from(["10.2.0.0/24", "10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "128.0.0.0/5", "10.1.0.128/25", "fd00::/16",
                     "::/0", "10.2.0.0/33", "10.2.0.9/24", "172.16.0.0/12", "192.168.0.0/16", "10.96.0.0/12"]),
    addresses.map(lambda ip: f"{ip}/128" if ":" in ip else f"{ip}/32"),
)  # fmt: skip
numbers = st.one_of(
    st.sampled_from([number_of(SOUTH), number_of(SOUTH, 65_535), number_of(NORTH), number_of(EAST), (2 << 32) + 7, 1 << 32]),
    st.sampled_from([int(reserved) for reserved in Reserved]),
    st.sampled_from([0, 255, 256, 65_535, 1 << 24]),
)  # fmt: skip
clusters = st.sampled_from(["south", "south", "south", "north", "east", "South", ""])
ids = st.sampled_from([2, 2, 2, 1, 3, 0, 255, 1 << 16])
names = st.sampled_from([SHARED, ServiceName("kube-system", "kube-dns"), ServiceName("", ""), ServiceName("a/b", "c")])
labels = st.sampled_from(
    [label_of("south"), label_of("south"), label_of("north"), label_of("east"), "reserved:host=", "reserved:world=",
     "cidr:10.1.0.0/24=", "fqdn:*.bank=", "k8s:app=cart", "any:app=cart", "io.cilium.k8s.policy.cluster=north", ";;", "="]
)  # fmt: skip
text = st.text(max_size=6)
addresses_of_nodes = st.sampled_from(["InternalIP", "ExternalIP", "CiliumInternalIP", "Other"])


@st.composite
def nodes(draw: st.DrawFn) -> Record:
    more = {
        "IPAddresses": [
            {"Type": draw(addresses_of_nodes), "IP": draw(addresses)} for _ in range(draw(st.integers(0, 3)))
        ],
        "IPv4HealthIP": draw(addresses), "IPv4IngressIP": draw(addresses), "ClusterID": draw(ids),
        "IPv4SecondaryAllocCIDRs": draw(st.lists(networks, max_size=3)),
    }  # fmt: skip
    return node(draw(clusters), draw(st.sampled_from(["s1", "n1", "e1", "", "a/b"])), "", draw(networks), **more)


@st.composite
def pods(draw: st.DrawFn) -> Record:
    ip = draw(addresses)
    return pod(ip, draw(numbers), draw(addresses), draw(st.one_of(st.just(ip), addresses, networks)))


@st.composite
def backends(draw: st.DrawFn) -> Record:
    make = draw(st.sampled_from([service, endpoint_slice]))
    return make(draw(clusters), draw(ids), draw(names), draw(st.lists(addresses, max_size=4)))


honest = st.sampled_from(
    [
        node(SOUTH, "s1", "172.18.0.5", "10.2.0.0/24"),
        identity(number_of(SOUTH), "k8s:app=cart", label_of(SOUTH)),
        pod("10.2.0.7", number_of(SOUTH), "172.18.0.5"),
    ]
)
records = st.one_of(honest, nodes(), pods(), backends(), st.builds(identity, numbers, labels, labels, labels))


@st.composite
def lies(draw: st.DrawFn) -> Record:
    """A record, its deletion, the record under a key of another kind, or one that says nothing at all."""
    kind, key, value = draw(records)
    match draw(st.sampled_from(["as it is"] * 6 + ["deleted", "swapped", "foreign key", "cut"])):
        case "deleted":
            return kind, key, None
        case "swapped":
            return draw(st.sampled_from(KINDS)), key, value
        case "foreign key":
            return kind, draw(st.one_of(text.map(str.encode), st.binary(max_size=4), st.just(b"shop/cart"))), value
        case "cut":
            return kind, key, (value or b"")[: draw(st.integers(0, 40))]
    return kind, key, value


# ---- who hears it


class Agent:
    """The tables of one agent of north, and what it makes of each cluster's records."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.db = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2")
        balancer = LoadBalancerWriter(self.db)
        writers = Writers(balancer, PrefixWriter(self.db), IdentityWriter(self.db), NodeWriter(self.db))
        networks, self._rounds = Networks(NORTH), 0
        networks.judges.append(self._count)
        networks.set_own_service(ServiceName("kube-system", "kube-dns"), ["10.96.0.10"], ["172.18.9.1"])
        self.of = {
            name: Ingest(name, self.db, writers, networks=networks, rejections=Rejections(clock), clock=clock)
            for name in IDS
        }

    async def begin(self) -> None:
        for name, ingest in self.of.items():
            await ingest.begin(ClusterConfig(id=ClusterId(IDS[name]), synced_canaries=True), KINDS)

    def hear(self, cluster: ClusterName, records: Iterable[Record]) -> None:
        for kind, key, value in records:
            self._rounds = 0
            self.of[cluster].apply(kind, [(key, value)])

    def _count(self, _changes: object) -> int:
        self._rounds += 1
        assert self._rounds < MOST_ROUNDS, "records are judged again and again"
        return 0

    def rows(self, *clusters: ClusterName) -> dict[str, list[str]]:
        """What is known of these clusters, as text."""
        db = self.db
        tables = {"prefix": db.prefixes, "node": db.nodes, "identity": db.identities, "backends": db.backends}
        return {
            kind: sorted(repr(row) for row in table.rows() if row.cluster in clusters)  # type: ignore[attr-defined]
            for kind, table in tables.items()
        }


def claimed(agent: Agent) -> Iterator[tuple[str, Block]]:
    """Every address and network that a row gives south, with the row."""
    db = agent.db
    for prefix in (row for row in db.prefixes.rows() if row.cluster == SOUTH):
        yield repr(prefix), block_of(prefix.prefix)
        for tunnel in (prefix.tunnel, prefix.host):
            if tunnel:
                yield repr(prefix), block_of(tunnel)
    for found in (row for row in db.nodes.rows() if row.cluster == SOUTH):
        for address in (*(a.ip for a in found.addresses), *found.pod_cidrs, found.health_ip, found.ingress_ip):
            if address:
                yield repr(found), block_of(address)
    for backends_ in (row for row in db.backends.rows() if row.cluster == SOUTH):
        for backend in backends_.backends:
            yield repr(backend), block_of(backend.address)


def check(agent: Agent, *more: Block) -> None:
    """South has nothing of others, and speaks under its own numbers and name only."""
    db = agent.db
    for row, block in claimed(agent):
        assert not [victim for victim in (*VICTIMS, *more) if victim.overlaps(block)], row
    known = {a.ip for n in db.nodes.rows() if n.cluster == SOUTH for a in n.addresses}
    said = known | {ip for n in db.nodes.rows() if n.cluster == SOUTH for ip in (n.health_ip, n.ingress_ip)}
    for prefix in (row for row in db.prefixes.rows() if row.cluster == SOUTH):
        if 0 < prefix.identity < FIRST_ALLOCATED:
            assert prefix.prefix.partition("/")[0] in said or prefix.origin == "pod-cidr", prefix
        elif prefix.identity:
            assert prefix.identity >> 16 == IDS[SOUTH], prefix
    for identity_ in (row for row in db.identities.rows() if row.cluster == SOUTH):
        assert identity_.id >> 16 == IDS[SOUTH], identity_
        assert {str(label) for label in identity_.labels if "policy.cluster" in label.key} == {label_of(SOUTH)}


@settings(max_examples=examples(80))
@given(before=st.lists(lies(), max_size=8), between=st.lists(lies(), max_size=8), after=st.lists(lies(), max_size=12))
def test_whatever_a_peer_publishes_costs_nobody_anything(
    before: list[Record], between: list[Record], after: list[Record]
) -> None:
    """Ours may come after the lies: we win. East was there first, as among peers the first one holds."""
    honest_only, agent = Agent(), Agent()

    async def tell() -> None:
        for each in (honest_only, agent):
            await each.begin()
            each.hear(EAST, EASTS_PUBLISHED)
        agent.hear(SOUTH, before)
        for record in OURS_PUBLISHED:
            honest_only.hear(NORTH, [record])
            agent.hear(NORTH, [record])
            agent.hear(SOUTH, between[:2])
            del between[:2]
        check(agent)
        for lie in after:
            agent.hear(SOUTH, [lie])
            check(agent)
        for each in (honest_only, agent):
            each.hear(NORTH, [node(NORTH, "n2", "172.18.0.6", "10.9.0.0/24")])
        check(agent, block_of("172.18.0.6"), block_of("10.9.0.0/24"))

    asyncio.run(tell())
    assert agent.rows(NORTH, EAST) == honest_only.rows(NORTH, EAST)
    agent.of[SOUTH].drain()
    assert agent.rows(NORTH, EAST, SOUTH) == honest_only.rows(NORTH, EAST)


contested = st.builds(
    lambda ip: pod(ip, number_of(SOUTH), "172.18.0.5"),
    st.sampled_from(["10.1.0.9", "192.168.7.9", "10.3.0.9", "10.2.0.7"]),
)
speakers = st.sampled_from([(SOUTH, WEST), (SOUTH,), (WEST,)])


def as_west(lie: Record) -> Record:
    kind, key, value = lie
    south, west = (str(number_of(name)).encode() for name in (SOUTH, WEST))
    key = west if key == south else key
    for old, new in ((b"south", b"west"), (south, west), (b'lusterID": 2,', b'lusterID": 4,')):
        value = None if value is None else value.replace(old, new)
    return kind, key, value


@settings(max_examples=examples(80))
@given(said=st.lists(st.tuples(st.one_of(lies(), contested), speakers), max_size=20))
def test_two_peers_that_lie_alike_cost_nobody_anything_and_end(
    said: list[tuple[Record, Collection[ClusterName]]],
) -> None:
    """Each record is said by south, by west, or by both."""
    honest_only, agent = Agent(), Agent()

    async def tell() -> None:
        for each in (honest_only, agent):
            await each.begin()
            each.hear(EAST, EASTS_PUBLISHED)
            each.hear(NORTH, OURS_PUBLISHED)
        for lie, clusters_ in said:
            if SOUTH in clusters_:
                agent.hear(SOUTH, [lie])
            if WEST in clusters_:
                agent.hear(WEST, [as_west(lie)])
            check(agent)
        for each in (honest_only, agent):
            each.hear(NORTH, [node(NORTH, "n2", "172.18.0.6", "10.9.0.0/24")])

    asyncio.run(tell())
    assert agent.rows(NORTH, EAST) == honest_only.rows(NORTH, EAST)
