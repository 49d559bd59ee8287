# SPDX-License-Identifier: Apache-2.0
"""What one node's agent says: its status and the rows of its tables and maps. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from meshapi.peer import RemoteCluster
from meshapi.row import SCHEMA, Row


class MapStatus(Row, kw_only=True):
    """One kernel map: how full it is, and what is still to be written."""

    name: str
    entries: int
    maximum: int
    pending: int = 0
    failed: int = 0


NODE_ENDPOINT: Final = 0
"""The number of the node itself where endpoints have theirs: host policies judge it."""
NOT_ENFORCED: Final = "not enforced: "
"""What a sentence in `AgentStatus.problems` begins with that tells of a valid policy's part without its full effect."""


class AgentStatus(Row, kw_only=True):
    """One node's agent. `services` counts frontends; each item of `problems` is a sentence for a person; `now` is what its
    clock showed; `drained` are clusters whose backends take no new connections from here.
    """

    schema: int = SCHEMA
    node: str = ""
    cluster: str = ""
    cluster_id: int = 0
    version: str = ""
    ready: bool = False
    started: float = 0.0
    now: float = 0.0
    peers: list[RemoteCluster] = msgspec.field(default_factory=list)
    endpoints: int = 0
    services: int = 0
    global_services: int = 0
    identities: int = 0
    policies: int = 0
    maps: list[MapStatus] = msgspec.field(default_factory=list)
    health: dict[str, str] = msgspec.field(default_factory=dict)
    datapath: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[str] = msgspec.field(default_factory=list)
    drained: list[str] = msgspec.field(default_factory=list)


class NodeAddressRow(Row):
    """One address of a node. `type` is Kubernetes' word: InternalIP, ExternalIP, CiliumInternalIP."""

    type: str
    ip: str


class NodeRow(Row, kw_only=True):
    """A node of any cluster. `name` is cluster/node; `source` is local, custom-resource or clustermesh."""

    name: str
    cluster: str
    cluster_id: int
    address: str
    addresses: list[NodeAddressRow]
    pod_cidrs: list[str]
    source: str


class NameRow(Row):
    """A pod of this node was told that a name has an address.

    `left_s`: seconds that it counts on; 0: it is kept for a connection. `labels`: the names and patterns of policies that
    mean the address.
    """

    endpoint: str
    name: str
    address: str
    left_s: float
    labels: list[str]


class NamesForgotten(Row, kw_only=True):
    """How many answers do not count any more."""

    schema: int = SCHEMA
    forgotten: int


class IdentityRow(Row):
    """An identity of any cluster; labels are source:key=value.

    `source` says where it is from: clustermesh (a peer's record), local (the own cluster), reserved, or node (made by this
    agent for nodes with these labels, known nowhere else).
    """

    id: int
    cluster: str
    labels: list[str]
    source: str = ""


class AddressRow(Row):
    """Whose a prefix is. While `identity_known` is false the labels of the identity have not arrived yet, and the kernel is
    told identity 0. `tunnel` is the node it is reached through, empty if directly; `name` is the pod's or node's.
    """

    cidr: str
    identity: int
    cluster: str
    origin: str = ""
    identity_known: bool = True
    namespace: str = ""
    name: str = ""
    host_ip: str = ""
    tunnel: str = ""
    cluster_id: int = 0
    source: str = ""


class EndpointRow(Row):
    """A pod of this node that has an interface: what enforcement is attached to.

    `policy_revision` is what the kernel enforces for it; None while it enforces nothing yet. `failure` says why its policy
    is not in force as written ("": it is). `behind` says how the node reaches the interface: "routed" or "bridge port".
    """

    id: int
    address: str
    identity: int
    ingress_enforced: bool
    egress_enforced: bool
    policy_revision: int | None = 0
    namespace: str = ""
    pod: str = ""
    ifindex: int = 0
    failure: str = ""
    behind: str = ""
    ipv6: list[str] = msgspec.field(default_factory=list)


class PolicyStatus(Row, kw_only=True):
    """One policy object: in force, judged only (`staged`), or refused with the reason in `message`."""

    kind: str
    namespace: str
    name: str
    valid: bool
    message: str = ""
    problems: list[str] = msgspec.field(default_factory=list)
    not_enforced: list[str] = msgspec.field(default_factory=list)
    """Those of `problems` that say what has not the effect it states."""
    pods: list[str] = msgspec.field(default_factory=list)
    """Pods of this node that are concerned by what is not enforced."""
    staged: bool = False


class PolicyList(Row, kw_only=True):
    """Every policy object, and the revision of the whole that they make."""

    schema: int = SCHEMA
    revision: int
    policies: list[PolicyStatus]


class SelectorRow(Row, kw_only=True):
    """A selector that policies use, and the identities it selects now."""

    selector: str
    identities: list[int]


class ServicePeersRow(Row, kw_only=True):
    """A Service, and who its backends are in every cluster, as rules that name Services mean them.

    `addresses` are host prefixes that have no identity, `reserved` identities that mean every node.
    """

    namespace: str
    name: str
    labels: dict[str, str]
    identities: list[int]
    addresses: list[str]
    reserved: list[int]


class PolicyMapRow(Row, kw_only=True):
    """One entry of an endpoint's policy map as the kernel holds it, with names for its numbers.

    Direction 0 is egress. Protocol 0, port bits 0 and identity 0 mean any; `port_bits` is how many leading bits of the port
    count; an ICMP type stands in `port`.
    """

    endpoint_id: int
    direction: int
    identity: int
    protocol: int
    port: int
    port_bits: int
    deny: bool
    precedence: int
    proxy_port: int
    rule_id: int = 0
    identity_name: str = ""
    rule: str = ""


class MapDifference(Row, order=True):
    """One entry that is not as it should be. `place` is a map or "attachments", `what` says what is wrong."""

    place: str
    key: str
    what: str


class Verification(Row, kw_only=True):
    """This node's maps and attachments against the agent's tables, in the order of places and keys.

    While `waiting_for` names sources the tables are not complete; `pending` rows are not written yet, or failed.
    `repaired` are differences that a repair removed; `not_begun` reconcilers that write nothing yet, so repaired nothing.
    """

    schema: int = SCHEMA
    node: str = ""
    differences: list[MapDifference] = msgspec.field(default_factory=list)
    repaired: list[MapDifference] = msgspec.field(default_factory=list)
    waiting_for: list[str] = msgspec.field(default_factory=list)
    pending: int = 0
    not_begun: list[str] = msgspec.field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Nothing differs, and the tables are complete enough to say so."""
        return not self.differences and not self.waiting_for


MapField = int | str | bool


class MapEntry(Row):
    """One entry of a kernel map; the fields are those of the C structs in agent/datapath/bpf/abi.h."""

    key: dict[str, MapField]
    value: dict[str, MapField]


class LoadBalancerMaps(Row, kw_only=True):
    """What the kernel balances with: slots of services, and the backends that they lead to; apart those of IPv6."""

    schema: int = SCHEMA
    services: list[MapEntry]
    backends: list[MapEntry]
    services6: list[MapEntry] = msgspec.field(default_factory=list)
    backends6: list[MapEntry] = msgspec.field(default_factory=list)


class TableText(Row, kw_only=True):
    """Tables of the agent in their text form, as `meshkit.text` writes it."""

    schema: int = SCHEMA
    text: str


_DECODER: Final = msgspec.json.Decoder(AgentStatus)
"""Made here, since threads that decode a type for the first time at once end the process."""


def decode_agent(data: bytes) -> AgentStatus:
    """Raises: msgspec.DecodeError (members we do not know are ignored)."""
    return _DECODER.decode(data)
