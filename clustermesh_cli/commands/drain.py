# SPDX-License-Identifier: Apache-2.0
"""`clustermesh drain` and `undrain`: a ConfigMap that every agent follows names the clusters that take no new connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Final

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.commands.status import ANSWER_S, CLOCK, RETRY_S
from clustermesh_cli.console import Console
from clustermesh_cli.contexts import naming
from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from clustermesh_cli.plan.peering import read_peers
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.program_statuses import ApiserverSilentError, ask_agents, read_apiserver
from kube.client import KubeClient
from kube.errors import AlreadyExists, KubeError
from meshapi.agent import AgentStatus
from meshapi.installed import AGENT, CLUSTER_NAME_KEY, DRAINED, PART_OF, PEERS_SECRET
from meshapi.shown_times import rfc3339

NEXT: Final = "explain service NAMESPACE/NAME says where a service's connections go"

Clients = Mapping[str, KubeClient]
"""By context."""


def drain(clients: Clients, namespace: str, cluster: str, console: Console, wait_s: float | None) -> None:
    """New connections of these clusters' clients leave `cluster`. Nothing is written unless each of them knows it.

    Raises: CommandRefusedError, CommandError, KubeError.
    """
    console.step(f"Draining {cluster}...")
    for context, client in clients.items():
        with naming(context):
            _refuse_stranger(client, namespace, cluster)
    places, news = dict[str, str](), dict[str, bool]()
    for context, client in clients.items():
        with naming(context):
            places[context] = _name(client, namespace)
            news[context] = _write(client, namespace, cluster, rfc3339(CLOCK.wall()))
    for context in _heard(clients, namespace, cluster, wait_s, is_drained=True):
        where = places[context]
        said = f"{cluster} is drained in {where}" if news[context] else f"{cluster} was drained in {where} before"
        console.ok(f"{said}: new connections go elsewhere where anybody else is ready; open ones stay")
    console.info(NEXT)


def undrain(clients: Clients, namespace: str, cluster: str, console: Console, wait_s: float | None) -> None:
    """`cluster` takes new connections of these clusters' clients again; one that is drained can be named when it is no peer.

    Nothing is written where one of them neither drains nor knows it. Raises: CommandRefusedError, CommandError, KubeError.
    """
    console.step(f"Undraining {cluster}...")
    places, drained = dict[str, str](), dict[str, bool]()
    for context, client in clients.items():
        with naming(context):
            drained[context] = cluster in _read(client, namespace)
            places[context] = _name(client, namespace)
            if not drained[context]:
                _refuse_stranger(client, namespace, cluster)
    for context, client in clients.items():
        if drained[context]:
            with naming(context):
                client.patch_merge(k.CONFIG_MAPS, DRAINED, {"data": {cluster: None}}, namespace)
    for context in _heard(clients, namespace, cluster, wait_s, is_drained=False):
        where = places[context]
        console.ok(
            f"{cluster} takes new connections from {where} again"
            if drained[context]
            else f"{cluster} was not drained in {where}"
        )


def _heard(clients: Clients, namespace: str, cluster: str, wait_s: float | None, *, is_drained: bool) -> Iterator[str]:
    """Contexts all of whose agents do it, as soon as they do; within `wait_s` together, None: all of them at once.

    Raises: CommandError (timeout) after the others, with those that are late.
    """
    until_s = None if wait_s is None else CLOCK.monotonic() + wait_s
    late: list[str] = []
    for context, client in clients.items():
        missing = "" if until_s is None else _wait(client, namespace, cluster, until_s, is_drained=is_drained)
        if missing:
            late.append(f"{context}: {missing}" if context else missing)
        else:
            yield context
    if late:
        word = "drained" if is_drained else "undrained"
        raise CommandError(
            f"{cluster} is written as {word}, and not heard of yet by: {'; '.join(late)}; agents that come back do so too",
            ExitCode.TIMEOUT,
        )


def _refuse_stranger(client: KubeClient, namespace: str, cluster: str) -> None:
    own = _name(client, namespace)
    peers = read_peers(client.get(k.SECRETS, PEERS_SECRET, namespace))
    if cluster not in {own, *peers}:
        raise CommandRefusedError(
            f"{cluster} is neither {own} itself nor a peer of it: nothing was changed; "
            f"its peers: {', '.join(sorted(peers)) or 'none'}"
        )


def _name(client: KubeClient, namespace: str) -> str:
    name = read_config(client, namespace).get(CLUSTER_NAME_KEY, "")
    if not name:
        raise CommandError("the mesh is not enabled here; run clustermesh enable")
    return name


def _read(client: KubeClient, namespace: str) -> dict[str, str]:
    return dict((client.get(k.CONFIG_MAPS, DRAINED, namespace) or {}).get("data") or {})


def _write(client: KubeClient, namespace: str, cluster: str, since: str) -> bool:
    """Whether it was not drained before."""
    if cluster in _read(client, namespace):
        return False
    data = {cluster: f"since {since}"}
    metadata = {"name": DRAINED, "namespace": namespace, "labels": PART_OF}
    try:
        client.create(k.CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    except AlreadyExists:
        client.patch_merge(k.CONFIG_MAPS, DRAINED, {"data": data}, namespace)
    return True


def _wait(client: KubeClient, namespace: str, cluster: str, until_s: float, *, is_drained: bool) -> str:
    """Every agent does it; else those that do not at `until_s`, on the monotonic clock."""
    programs = ProgramClient(client.within(ANSWER_S), namespace)
    while True:
        missing = _behind(programs, cluster, is_drained=is_drained)
        if not missing or CLOCK.monotonic() >= until_s:
            return missing
        threading.Event().wait(RETRY_S)


def _behind(programs: ProgramClient, cluster: str, *, is_drained: bool) -> str:
    """The nodes whose agents do not do it yet; empty if there are none."""
    try:
        daemon = programs.client.get(k.DAEMON_SETS, AGENT, programs.namespace) or {}
        agents = _agents(programs)
    except (KubeError, CommandError) as exc:
        return str(exc)
    late = [
        agent.node or "an agent that does not answer"
        for agent in agents
        if (cluster in agent.drained) is not is_drained
    ]
    if not agents:
        return "any agent: none is seen"
    unseen = int((daemon.get("status") or {}).get("desiredNumberScheduled", 0)) - len(agents)
    return ", ".join([*late, *([f"{unseen} agents that are not seen"] if unseen > 0 else [])])


def _agents(programs: ProgramClient) -> list[AgentStatus]:
    try:
        return read_apiserver(programs).agents
    except ApiserverSilentError as exc:
        return ask_agents(programs, str(exc)).agents
