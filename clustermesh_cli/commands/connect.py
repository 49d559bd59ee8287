# SPDX-License-Identifier: Apache-2.0
"""`clustermesh connect`: who reads whom from now on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clustermesh_cli.clock_proof import prove_clocks
from clustermesh_cli.cluster_facts import read_cluster_trust, read_facts
from clustermesh_cli.console import Console
from clustermesh_cli.contexts import naming
from clustermesh_cli.link_proof import Patience, prove_reach, prove_session
from clustermesh_cli.link_writer import read_objects, write_steps
from clustermesh_cli.owned_networks import OwnedNetworks
from clustermesh_cli.plan.connect import PeerLink, check_access, check_all, check_flows, plan_links
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.endpoint import given_access
from clustermesh_cli.plan.facts import ClusterFacts
from clustermesh_cli.plan.link_change import LinkStep, connecting_steps, plan_changes
from clustermesh_cli.plan.peer_networks import Choices
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What the user asked for. `endpoints` maps a context to HOST:PORT entries that replace what its Service says.

    `is_verified` is off where the clusters cannot be asked to try the endpoints; `waits` for a session of every link.
    `allow_flows`: whether targets grant flows to their readers; None leaves that as it is.
    """

    mode: Mode
    endpoints: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dry_run: bool = False
    is_verified: bool = True
    waits: bool = True
    networks: Choices = field(default_factory=dict)
    allow_flows: bool | None = None


def connect(
    clients: Mapping[str, KubeClient], namespace: str, options: ConnectOptions, console: Console, patience: Patience
) -> tuple[PeerLink, ...]:
    """Connect the first context of `clients` to the others. Everything is checked before anything is written.

    Returns the links made. Raises: CommandRefusedError, having changed nothing, when the clusters cannot share a mesh;
    CommandError when an endpoint does not work (nothing was changed) or no session comes up (what was there is restored).
    """
    given = {context: given_access(entries) for context, entries in options.endpoints.items() if entries}
    facts = []
    for context, client in clients.items():
        console.step(f"Reading cluster {context}...")
        with naming(context):
            found = read_facts(client, namespace, context)
        facts.append(replace(found, access=given[context]) if context in given else found)
        _say_access(facts[-1], console)
    check_all(facts)
    local, *remotes = facts
    objects = read_objects(clients, namespace)
    links = tuple(replace(link, flows=options.allow_flows) for link in plan_links(local, remotes, options.mode))
    for link in links if options.allow_flows else ():
        check_flows(link.target)
    links = OwnedNetworks(clients, namespace, options.networks, console).decide(links, objects)
    plan_changes(connecting_steps(links, namespace), objects)
    programs = {context: ProgramClient(client, namespace) for context, client in clients.items()}
    if options.is_verified:
        for link in links:
            prove_reach(link, programs, patience, console)
        prove_clocks(facts, programs, patience.wall, console)

    def decide_steps() -> tuple[LinkStep, ...]:
        """By the authorities as they are now: one may have been replaced while we looked and waited."""
        trust = {context: read_cluster_trust(client, namespace, context) for context, client in clients.items()}
        return connecting_steps((link.trusting(trust) for link in links), namespace)

    def verify() -> None:
        for link in links:
            if options.waits and options.is_verified:
                prove_session(link, programs[link.reader.context], patience)

    if not options.dry_run:
        write_steps(clients, namespace, decide_steps, verify)
    _say_links(links, options, console)
    return links


def link_text(links: Sequence[PeerLink], mode: Mode) -> str:
    """The last line of `connect`, as users of `cilium clustermesh connect` know it."""
    contexts = list(dict.fromkeys(c.context for link in links for c in (link.reader, link.target)))
    match mode:
        case Mode.UNICAST:
            return f"Connected cluster {contexts[0]} => {', '.join(contexts[1:])}!"
        case Mode.BIDIRECTIONAL:
            return f"Connected cluster {contexts[0]} <=> {', '.join(contexts[1:])}!"
        case Mode.MESH:
            return f"Connected clusters {', '.join(contexts[:-1])} and {contexts[-1]}!"


def _say_access(cluster: ClusterFacts, console: Console) -> None:
    access = check_access(cluster)
    console.info(f"{cluster.name} (id {cluster.id}) is reached at {', '.join(access.addresses)} port {access.port}")


def _say_links(links: Sequence[PeerLink], options: ConnectOptions, console: Console) -> None:
    said = " (dry run, nothing written)" if options.dry_run else ""
    for link in links:
        reader, target = link.reader.context, link.target.context
        console.info(f"{reader} reads {target}{said}")
        if link.flows is not None:
            now = "gets" if link.flows else "no longer gets"
            console.info(f"{reader} {now} flows of {target} in which it takes part{said}")
