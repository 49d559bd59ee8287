# SPDX-License-Identifier: Apache-2.0
"""What running clusters say that a policy's effect depends on: objects from Kubernetes, beliefs from the agents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import msgspec

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.node_policies import NodeFacts
from clustermesh_cli.policy_settings import DEFAULTS, PolicySettings, read_settings
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from kube.errors import Forbidden, KubeError, NotFound
from kubeintent.node import read_node
from kubeintent.pod import ENDED_PHASES, read_pod
from kubeintent.read import UnreadableError
from meshapi.agent import AddressRow, EndpointRow, IdentityRow, NameRow, PolicyMapRow, ServicePeersRow, decode_agent
from meshapi.installed import AGENT_SELECTOR, CLUSTER_NAME_KEY
from meshapi.peer import RemoteCluster
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal
from meshmodel.errors import ModelError
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels, parse_label, sort_labels
from meshpolicy.context import PolicyContext
from meshpolicy.peer import ServicePeers
from meshpolicy.port import PROTOCOL_NUMBERS, NamedPorts
from meshpolicy.prefix import Cidr, parse_address, parse_prefix
from meshpolicy.proxy_ports import ProxyPorts

_NO_SUCH_PATH: Final = 404

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod as its cluster's Kubernetes describes it."""

    namespace: str
    name: str
    node: str
    address: str
    uses_host_network: bool = False
    named_ports: NamedPorts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """One cluster whose Kubernetes may be asked. `identity_born_s` is in wall seconds."""

    context: str
    name: str
    default_local_cluster: bool
    documents: tuple[Mapping[str, object], ...] = ()
    pods: tuple[PodFacts, ...] = ()
    identity_born_s: Mapping[int, float] = field(default_factory=dict)
    nodes: tuple[NodeFacts, ...] = ()
    settings: PolicySettings = DEFAULTS

    @property
    def policy_context(self) -> PolicyContext:
        """How its agents read policies."""
        switch, ipv6 = self.default_local_cluster, self.settings.ipv6
        return PolicyContext(self.name, switch, proxy_ports=ProxyPorts(), ipv6=ipv6)


@dataclass(frozen=True, slots=True)
class AgentView:
    """What one agent believes of every cluster's addresses and identities, and how fresh its peers are.

    `names` are the addresses that policies mean by a DNS name on its node, with the keys of these labels.
    """

    cluster: str
    node: str
    addresses: Mapping[Cidr, AddressRow]
    identities: Mapping[NumericIdentity, Labels]
    peers: Mapping[str, RemoteCluster]
    endpoints: tuple[EndpointRow, ...] = ()
    names: Mapping[Cidr, frozenset[str]] = field(default_factory=dict)

    def row_of(self, address: str) -> AddressRow | None:
        """The longest known prefix that holds the address."""
        host = parse_address(address)
        shortened = (host.shortened(bits) for bits in range(host.bits, -1, -1))
        return next((self.addresses[prefix] for prefix in shortened if prefix in self.addresses), None)

    def endpoint_of(self, address: str) -> EndpointRow | None:
        """The endpoint with the address; None if enforcement is attached to none."""
        return next((row for row in self.endpoints if row.address == address), None)


def read_cluster(client: KubeClient, system: str, context: str) -> LiveCluster:
    """Policies, pods and identities of one cluster. Raises: CommandError if it is in no mesh or does not answer."""
    try:
        config = read_config(client, system)
        name = config.get(CLUSTER_NAME_KEY)
        if not name:
            raise CommandError(
                f"the mesh is not enabled in {context}: run clustermesh enable --context {context} first"
            )
        settings = read_settings(client, system, config)
        return LiveCluster(
            context=context,
            name=name,
            default_local_cluster=settings.default_local_cluster,
            settings=settings,
            documents=tuple(document for res in k.POLICY_RESOURCES for document in _list(client, res)),
            pods=tuple(row for pod in client.list(k.PODS) if (row := _pod(pod)) is not None),
            identity_born_s=dict(_births(_list(client, k.CILIUM_IDENTITIES))),
            nodes=tuple(_nodes(_list(client, k.NODES))),
        )
    except KubeError as exc:
        raise _refused(context, exc) from exc


def read_agent(programs: ProgramClient, context: str, node: str = "") -> AgentView:
    """The view of the agent on the node, of any ready one without a node. Raises: CommandError if none answers."""
    try:
        pod = _agent_pod(programs, context, node)
        status = decode_agent(_ask(programs, pod, "v1/status"))
        identities = _decode(_ask(programs, pod, "v1/identities"), list[IdentityRow])
        addresses = _decode(_ask(programs, pod, "v1/ips"), list[AddressRow])
        return AgentView(
            cluster=status.cluster,
            node=status.node,
            addresses={parse_prefix(row.cidr): row for row in addresses},
            identities={NumericIdentity(row.id): _labels(row.labels) for row in identities},
            peers={peer.name: peer for peer in status.peers},
            endpoints=tuple(_decode(_ask(programs, pod, "v1/endpoints"), list[EndpointRow])),
            names=_names(programs, pod),
        )
    except KubeError as exc:
        raise _refused(context, exc) from exc
    except (msgspec.DecodeError, ModelError, ValueError) as exc:
        raise CommandError(
            f"the agent of {context} says what this command cannot read: {exc}; use one version"
        ) from exc


def _names(programs: ProgramClient, pod: k.KubeObject) -> dict[Cidr, frozenset[str]]:
    """None where the agent keeps no names, as one without a DNS proxy or of an older version."""
    rows = _decode(_ask(programs, pod, "v1/fqdn/cache", unknown=b"[]"), list[NameRow])
    return {parse_address(row.address): frozenset(row.labels) for row in rows if row.labels}


def read_realised(programs: ProgramClient, context: str, node: str, endpoint_id: int) -> tuple[PolicyMapRow, ...]:
    """The entries that the node's kernel holds for an endpoint."""
    try:
        pod = _agent_pod(programs, context, node)
        body = _ask(programs, pod, f"v1/policy/endpoints/{endpoint_id}")
        return tuple(_decode(body, list[PolicyMapRow]))
    except KubeError as exc:
        raise _refused(context, exc) from exc


def names_services(documents: Iterable[Mapping[str, object]]) -> bool:
    """Whether a rule for egress may name Services, valid or not."""
    return any(
        isinstance(rule, Mapping) and "toServices" in rule
        for document in documents
        for spec in _dicts([document.get("spec"), *_items(document.get("specs"))])
        for part in ("egress", "egressDeny")
        for rule in _items(spec.get(part))
    )


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _dicts(values: Iterable[object]) -> Iterator[Mapping[str, object]]:
    return (value for value in values if isinstance(value, Mapping))


def read_services(programs: ProgramClient, context: str, node: str = "") -> tuple[ServicePeers, ...]:
    """Who the backends of every Service are, as the agent sees them that `read_agent` asks. Raises: CommandError."""
    try:
        rows = _decode(_ask(programs, _agent_pod(programs, context, node), "v1/policy/services"), list[ServicePeersRow])
        return tuple(
            ServicePeers(
                row.namespace,
                row.name,
                tuple(sorted(row.labels.items())),
                frozenset(row.identities),
                frozenset(parse_prefix(text) for text in row.addresses),
                frozenset(row.reserved),
            )
            for row in rows
        )
    except KubeError as exc:
        raise _refused(context, exc) from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise CommandError(
            f"the agent of {context} says what this command cannot read: {exc}; use one version"
        ) from exc


def _agent_pod(programs: ProgramClient, context: str, node: str) -> k.KubeObject:
    fields = f"spec.nodeName={node}" if node else ""
    found = programs.client.list(k.PODS, programs.namespace, AGENT_SELECTOR, fields)
    running = [pod for pod in found if (pod.get("status") or {}).get("phase") == "Running"]
    if not running:
        where = f"on node {node} of {context}" if node else f"in {context}"
        raise CommandError(
            f"no agent runs {where}: see kubectl --context {context} -n {programs.namespace} get pods -l {AGENT_SELECTOR}"
        )
    return min(running, key=lambda pod: str(pod["metadata"]["name"]))


def _ask(programs: ProgramClient, pod: k.KubeObject, path: str, *, unknown: bytes = b"") -> bytes:
    """What the agent answers; `unknown` if given and it does not know the path. Raises: CommandError."""
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
    code, body = programs.get_agent(name, path)
    if code == _NO_SUCH_PATH and unknown:
        return unknown
    if code != 200:
        raise CommandError(
            f"the agent on {node} does not answer (HTTP {code}: {read_refusal(body)}): "
            f"see kubectl -n {programs.namespace} logs {name}"
        )
    return body


def _decode(body: bytes, type_: type[_T]) -> _T:
    return decode_as(body, type_)


def _labels(texts: list[str]) -> Labels:
    return sort_labels(parse_label(text) for text in texts)


def _list(client: KubeClient, resource: k.Resource) -> list[k.KubeObject]:
    """Every object; none where the cluster does not have the kind."""
    try:
        return client.list(resource)
    except NotFound:
        return []


def _pod(pod: k.KubeObject) -> PodFacts | None:
    """The pod; None if it has ended or cannot be read."""
    try:
        row = read_pod(pod).row
    except UnreadableError:
        return None
    if row is None or (pod.get("status") or {}).get("phase") in ENDED_PHASES:
        return None
    return PodFacts(
        namespace=row.namespace,
        name=row.name,
        node=row.node,
        address=row.host_ip if row.uses_host_network else next(iter(row.ips), ""),
        uses_host_network=row.uses_host_network,
        named_ports={name: (number, PROTOCOL_NUMBERS[protocol]) for name, number, protocol in row.named_ports},
    )


def _nodes(nodes: list[k.KubeObject]) -> Iterator[NodeFacts]:
    for item in nodes:
        try:
            row = read_node(item).row
        except UnreadableError:
            continue
        if row is not None:
            yield NodeFacts(row.name, tuple(address for _, address in row.addresses), dict(row.labels))


def _births(identities: list[k.KubeObject]) -> Iterator[tuple[int, float]]:
    for item in identities:
        name, born = str(item["metadata"]["name"]), item["metadata"].get("creationTimestamp")
        if name.isdecimal() and born:
            yield int(name), datetime.fromisoformat(str(born)).timestamp()


def _refused(context: str, exc: KubeError) -> CommandError:
    if isinstance(exc, Forbidden):
        return CommandError(f"cluster of context {context}: {exc}; this needs to read pods, policies and pods/proxy")
    return CommandError(
        f"cluster of context {context} does not answer: {exc}; try kubectl --context {context} get nodes"
    )
