# SPDX-License-Identifier: Apache-2.0
"""`clustermesh explain policy`: may this pod talk to that one, which rule of which cluster decides, and who knows whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.connection_decision import End, Packet, decide
from clustermesh_cli.console import Console
from clustermesh_cli.decision_text import render, to_document
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.live_policy import (
    AgentView,
    LiveCluster,
    PodFacts,
    names_services,
    read_agent,
    read_cluster,
    read_realised,
    read_services,
)
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from meshapi.agent import NODE_ENDPOINT, AddressRow
from meshapi.row import SCHEMA
from meshkit.answer_form import AnswerForm
from meshpolicy.asked import Asked, parse_hello, parse_name
from meshpolicy.http_rule import parse_request
from meshpolicy.icmp import TYPE_NAMES
from meshpolicy.peer import ServicePeers
from meshpolicy.port import MAXIMUM_PORT, PROTOCOL_NUMBERS, NamedPorts

_CODES: Final = {True: ExitCode.OK, False: ExitCode.CHECK_FAILED, None: ExitCode.DEGRADED}


class PodName(NamedTuple):
    """NS/POD[@CLUSTER] as given; an empty cluster is the local one."""

    namespace: str
    pod: str
    cluster: str


@dataclass(frozen=True, slots=True)
class ExplainSources:
    """The clusters that may be asked, by name; the first is the local one."""

    programs: Mapping[str, ProgramClient]
    live: Mapping[str, LiveCluster]

    @property
    def local(self) -> str:
        return next(iter(self.live))

    def view(self, cluster: str, node: str = "") -> AgentView:
        return read_agent(self.programs[cluster], self.live[cluster].context, node)


def parse_end(text: str) -> PodName | str:
    """A pod's name or an IP address. Raises: CommandError (usage) for anything else."""
    namespace, slash, rest = text.partition("/")
    pod, _, cluster = rest.partition("@")
    if slash and namespace and pod and "/" not in rest:
        return PodName(namespace, pod, cluster)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise CommandError(f"{text!r} names no end: write NAMESPACE/POD, NAMESPACE/POD@CLUSTER or an address",
                           ExitCode.USAGE) from None  # fmt: skip


def parse_packet(text: str, named_ports: NamedPorts) -> Packet:
    """80/TCP, 80 (TCP), http (a port name of the destination pod), 8/ICMP. Raises: CommandError (usage)."""
    word, _, name = text.partition("/")
    protocol = PROTOCOL_NUMBERS.get((name or "TCP").upper())
    if protocol is None:
        raise CommandError(f"--port {text}: unknown protocol; choose {', '.join(PROTOCOL_NUMBERS)}", ExitCode.USAGE)
    if word.isdecimal() and int(word) <= MAXIMUM_PORT:
        return Packet(protocol, int(word))
    if word in TYPE_NAMES.get(protocol, {}):
        return Packet(protocol, TYPE_NAMES[protocol][word])
    if word.lower() in (ports := {key.lower(): value for key, value in named_ports.items()}):
        return Packet(ports[word.lower()][1] or protocol, ports[word.lower()][0])
    known = f"; the destination names {', '.join(named_ports)}" if named_ports else ""
    raise CommandError(f"--port {text}: write PORT/PROTOCOL, for instance 80/TCP{known}", ExitCode.USAGE)


def read_asked(http: str, dns: str, tls: str) -> Asked | None:
    """What --http, --dns or --tls asks. Raises: CommandError (usage)."""
    found = {flag: text for flag, text in (("--http", http), ("--dns", dns), ("--tls", tls)) if text}
    if len(found) > 1:
        raise CommandError(f"{' and '.join(found)} together: a connection carries one or the other", ExitCode.USAGE)
    parsers: dict[str, Callable[[str], Asked]] = {"--http": parse_request, "--dns": parse_name, "--tls": parse_hello}
    for flag, text in found.items():
        try:
            return parsers[flag](text)
        except ValueError as exc:
            raise CommandError(f"{flag}: {exc}", ExitCode.USAGE) from exc
    return None


def explain(
    clients: Mapping[str, KubeClient],
    system: str,
    ends: Sequence[str],
    port: str,
    console: Console,
    *,
    asked: Asked | None = None,
    wall_s: float,
    form: AnswerForm = AnswerForm.TABLE,
    verbose: bool = False,
) -> ExitCode:
    """Print why. `clients` are by context, the local one first; `ends` are --from and --to; `asked` is over the connection."""
    names = [parse_end(text) for text in ends]
    parse_packet(port.replace(port.partition("/")[0], "1", 1), {})
    sources = read_sources(clients, system)
    source, destination = (find_end(name, sources) for name in names)
    packet = parse_packet(port, destination.named_ports)
    decision = decide(source, destination, packet, asked)
    if form is AnswerForm.TABLE:
        render(decision, packet, wall_s, console, verbose=verbose)
    else:
        print_answer({"schema": SCHEMA, **to_document(decision, packet, wall_s)}, (), form, console)
    return _CODES[decision.allowed]


def read_sources(clients: Mapping[str, KubeClient], system: str) -> ExplainSources:
    """Every cluster that was named by a context."""
    live, by_name = {}, {}
    for context, client in clients.items():
        cluster = read_cluster(client, system, context)
        if cluster.name not in live:
            live[cluster.name], by_name[cluster.name] = cluster, ProgramClient(client, system)
    return ExplainSources(by_name, live)


def find_end(name: PodName | str, sources: ExplainSources) -> End:
    """The end with everything its cluster, or else the local agents, know of it. Raises: CommandError if there is none."""
    if isinstance(name, str):
        return _find_address(name, sources)
    cluster = name.cluster or sources.local
    live = sources.live.get(cluster)
    if live is None:
        return _find_remote(name, sources)
    pod = _choose(name, [p for p in live.pods if p.namespace == name.namespace], cluster)
    if not pod.address or not pod.node:
        raise CommandError(f"pod {pod.namespace}/{pod.name} of {cluster} has no address yet: wait until it runs")
    return _with_view(
        End(
            name=f"{pod.namespace}/{pod.name}",
            cluster=cluster,
            address=pod.address,
            node=pod.node,
            uses_host_network=pod.uses_host_network,
            named_ports=pod.named_ports,
            live=live,
        ),
        sources,
    )


def _find_address(address: str, sources: ExplainSources) -> End:
    row = sources.view(sources.local).row_of(address)
    if row is None or row.origin == "policy":
        return End(name=address, cluster="", address=address)
    if row.namespace:
        return find_end(PodName(row.namespace, row.name, row.cluster), sources)
    live = sources.live.get(row.cluster)
    is_node = row.origin == "node"
    end = End(
        name=row.name if is_node else address,
        cluster=row.cluster,
        address=address,
        node=row.name,
        uses_host_network=is_node,
        live=live,
    )
    return end if live is None else _with_view(end, sources)


def _find_remote(name: PodName, sources: ExplainSources) -> End:
    """A pod of a cluster whose Kubernetes is not asked: what it announces to the local agents."""
    view = sources.view(sources.local)
    if name.cluster not in view.peers:
        peers = ", ".join(view.peers) or "none"
        raise CommandError(f"{sources.local} knows no cluster {name.cluster}: its peers are {peers}", ExitCode.USAGE)
    rows = [row for row in view.addresses.values() if (row.cluster, row.namespace) == (name.cluster, name.namespace)]
    pods = [PodFacts(row.namespace, row.name, "", _host(row)) for row in rows if row.name]
    pod = _choose(name, pods, name.cluster)
    return End(name=f"{pod.namespace}/{pod.name}", cluster=name.cluster, address=pod.address)


def _host(row: AddressRow) -> str:
    return row.cidr.partition("/")[0]


def _choose(name: PodName, pods: Sequence[PodFacts], cluster: str) -> PodFacts:
    """The pod of this name, else the first whose name begins with it, as a Deployment's do."""
    exact = [pod for pod in pods if pod.name == name.pod]
    begun = [pod for pod in pods if pod.name.startswith(f"{name.pod}-") and pod.address]
    found = exact or sorted(begun, key=lambda pod: pod.name)
    if not found:
        known = ", ".join(sorted(pod.name for pod in pods)[:5]) or "no pods"
        raise CommandError(f"there is no pod {name.namespace}/{name.pod} in {cluster}; that namespace has {known}")
    return found[0]


def _with_view(end: End, sources: ExplainSources) -> End:
    view = sources.view(end.cluster, end.node)
    seen = replace(end, view=view)
    if seen.endpoint is None and not end.uses_host_network:
        return seen
    live, programs = sources.live[end.cluster], sources.programs[end.cluster]
    number = NODE_ENDPOINT if seen.endpoint is None else seen.endpoint.id
    services = _services_of(live, programs, end.node) if seen.endpoint is not None else None
    return replace(seen, realised=read_realised(programs, live.context, end.node, number), services=services)


def _services_of(live: LiveCluster, programs: ProgramClient, node: str) -> tuple[ServicePeers, ...] | None:
    """The backends that the node's agent knows, if a rule may ask; None if it does not say, as one of an older version."""
    if not names_services(live.documents):
        return ()
    try:
        return read_services(programs, live.context, node)
    except CommandError:
        return None
