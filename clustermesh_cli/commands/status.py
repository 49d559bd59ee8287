# SPDX-License-Identifier: Apache-2.0
"""`clustermesh status`: one request to the cluster's own apiserver, which asks its agents; then a verdict.

While the apiserver does not answer, the agents are asked one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

import kube.resource as k
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.cluster_certificates import read_certificates, replacement_notice
from clustermesh_cli.cluster_facts import find_access
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.failure_document import outcome
from clustermesh_cli.mesh_health import MeshHealth, assess
from clustermesh_cli.plan.detachment import is_leaving
from clustermesh_cli.plan.facts import KnownPeer, StoreAccess
from clustermesh_cli.plan.peering import read_peers
from clustermesh_cli.plan.trust_rules import judge_trust
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.program_statuses import ApiserverSilentError, ask_agents, read_apiserver
from clustermesh_cli.relay_state import ask_relay
from clustermesh_cli.status_text import render_status
from clustermesh_cli.withheld import Withheld
from kube.client import KubeClient
from kube.errors import KubeError
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import AGENT, CA_BUNDLE, PEERS_SECRET, REMOTE_USERS, STORE_SERVICE
from meshapi.shown_times import with_times
from meshkit.answer_form import AnswerForm
from meshkit.clock import SystemClock

CLOCK = SystemClock()
RETRY_S = 0.5
SAY_EVERY_S = 10.0
ANSWER_S = 5.0
"""How long one answer may take: whatever hangs, the operator hears of the rest while it matters."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one look at the cluster gave."""

    access: StoreAccess | None
    service_type: str
    status: ApiserverStatus
    verdict: MeshHealth
    expected_peers: Mapping[str, KnownPeer]


def look(programs: ProgramClient, *, without_apiserver: bool = False) -> Snapshot:
    """One look. Where the apiserver does not answer, the agents are asked if the caller can do `without_apiserver`.

    Whoever may ask the programs and not read Secrets, nodes or ConfigMaps sees what the programs say, and what is left out.

    Raises: CommandError where the mesh is not enabled, ApiserverSilentError, KubeError.
    """
    client, namespace = programs.client, programs.namespace
    service = client.get(k.SERVICES, STORE_SERVICE, namespace)
    if service is None:
        raise CommandError(
            f"the mesh is not enabled here: there is no Service {namespace}/{STORE_SERVICE}; run clustermesh enable"
        )
    withheld = Withheld()
    daemon = withheld.read("how many agents there should be", lambda: client.get(k.DAEMON_SETS, AGENT, namespace)) or {}
    expected_agents = int((daemon.get("status") or {}).get("desiredNumberScheduled", 0))
    try:
        status = read_apiserver(programs)
    except ApiserverSilentError as exc:
        if not without_apiserver:
            raise
        status = ask_agents(programs, str(exc))
    peers = withheld.read("configured peers", lambda: read_peers(client.get(k.SECRETS, PEERS_SECRET, namespace))) or {}
    certificates = withheld.read("certificates", lambda: read_certificates(client, namespace)) or ()
    notice = withheld.read("whether the authority is being replaced", lambda: replacement_notice(client, namespace))
    distrusted = withheld.read("who is trusted", lambda: _distrusted(client, namespace, status.cluster)) or ()
    relay = withheld.read("whether the relay of flows answers", lambda: ask_relay(programs))
    nodes = withheld.read("the address of the store", lambda: client.list(k.NODES)) or []
    verdict = assess(
        status,
        expected_peers=peers,
        expected_agents=max(expected_agents, 1),
        certificates=certificates,
        notices=[notice] if notice else [],
        distrusted=distrusted,
        withheld=withheld.notices,
        is_leaving=is_leaving(daemon),
        relay=relay,
        now_s=CLOCK.wall(),
    )
    access = find_access(service, nodes)
    return Snapshot(access, service["spec"].get("type", "ClusterIP"), status, verdict, peers)


def _distrusted(client: KubeClient, namespace: str, cluster: str) -> list[str]:
    """Who may read the cluster and cannot prove to it who they are, and what to do about each."""
    bundle, users = (client.get(k.CONFIG_MAPS, name, namespace) for name in (CA_BUNDLE, REMOTE_USERS))
    return [f"{row.detail}: {row.next}" for row in judge_trust(cluster, bundle, users)]


def status(client: KubeClient, namespace: str, console: Console, form: AnswerForm, *, wait_s: float | None) -> ExitCode:
    """Print the state, after waiting for it to be well if asked; the exit code says what was found.

    Raises: CommandError, KubeError where there is none, having printed nothing.
    """
    programs = ProgramClient(client.within(ANSWER_S), namespace)
    snapshot, code = _find(programs, console, wait_s, quiet=form is not AnswerForm.TABLE)
    verdict = snapshot.verdict
    if form is not AnswerForm.TABLE:
        document = {**msgspec.to_builtins(snapshot.status), "verdict": _hyphenated(asdict(verdict))}
        print_answer({**with_times(document), "outcome": outcome(code, verdict.problems)}, (), form, console)
    else:
        render_status(snapshot.status, verdict, snapshot.access, snapshot.service_type, console, now_s=CLOCK.wall())
    return code


def _find(programs: ProgramClient, console: Console, wait_s: float | None, *, quiet: bool) -> tuple[Snapshot, ExitCode]:
    if wait_s is None:
        snapshot = look(programs, without_apiserver=True)
        return snapshot, ExitCode.OK if snapshot.verdict.is_well else ExitCode.DEGRADED
    try:
        snapshot = _wait(programs, console, wait_s, quiet=quiet)
        return snapshot, ExitCode.OK if snapshot.verdict.is_well else ExitCode.DEGRADED
    except _NotInTimeError as exc:
        try:
            return look(programs, without_apiserver=True), ExitCode.TIMEOUT
        except (CommandError, KubeError):
            raise CommandError(str(exc), ExitCode.TIMEOUT) from exc


def _hyphenated(value: Any) -> Any:
    """The same with names as all other JSON of the mesh has them."""
    if isinstance(value, Mapping):
        return {name.replace("_", "-"): _hyphenated(inner) for name, inner in value.items()}
    return [_hyphenated(inner) for inner in value] if isinstance(value, list | tuple) else value


def wait_until_ready(client: KubeClient, namespace: str, console: Console, wait_s: float, *, context: str) -> None:
    """Return once the cluster is well. Raises CommandError (timeout) naming what is not."""
    try:
        _wait(ProgramClient(client.within(ANSWER_S), namespace), console, wait_s, quiet=False)
    except _NotInTimeError as exc:
        raise CommandError(f"{context}: {exc}", ExitCode.TIMEOUT) from exc


class _NotInTimeError(Exception):
    """The message has the last thing that was missing."""


def _wait(programs: ProgramClient, console: Console, wait_s: float, *, quiet: bool) -> Snapshot:
    started = time.monotonic()
    said = started
    snapshot: Snapshot | None = None
    while True:
        try:
            snapshot = look(programs)
            last = snapshot.verdict.problems[0] if snapshot.verdict.problems else ""
        except (CommandError, KubeError) as exc:
            snapshot, last = None, str(exc)
        if snapshot is not None and not last:
            return snapshot
        now = time.monotonic()
        if now - started >= wait_s:
            raise _NotInTimeError(f"timeout while waiting for condition, last error: {last}")
        if now - said >= SAY_EVERY_S and not quiet:
            said = now
            console.wait(f"Waiting ({now - started:.0f}s): {last}")
        threading.Event().wait(RETRY_S)
