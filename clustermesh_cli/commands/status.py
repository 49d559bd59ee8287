# SPDX-License-Identifier: Apache-2.0
"""`clustermesh status`: one request to the cluster's own apiserver, which asks its agents; then a verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import msgspec

import kube.resource as k
from clustermesh_cli.cluster_certificates import read_certificates
from clustermesh_cli.cluster_facts import find_access
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.mesh_health import MeshHealth, assess
from clustermesh_cli.plan.facts import KnownPeer, StoreAccess
from clustermesh_cli.plan.peering import read_peers
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.status_text import render_status
from kube.client import KubeClient
from kube.errors import KubeError
from meshapi.apiserver import ApiserverStatus, decode_apiserver
from meshapi.installed import AGENT, PEERS_SECRET, STORE_SERVICE
from meshkit.clock import SystemClock
from meshkit.refusal import read_refusal

CLOCK = SystemClock()
RETRY_S = 0.5
SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one look at the cluster gave."""

    access: StoreAccess | None
    service_type: str
    status: ApiserverStatus
    verdict: MeshHealth
    expected_peers: Mapping[str, KnownPeer]


def look(programs: ProgramClient) -> Snapshot:
    """One look. Raises CommandError with what is missing while the apiserver cannot be asked."""
    client, namespace = programs.client, programs.namespace
    service = client.get(k.SERVICES, STORE_SERVICE, namespace)
    if service is None:
        raise CommandError(
            f"the mesh is not enabled here: there is no Service {namespace}/{STORE_SERVICE}; run clustermesh enable"
        )
    daemon = client.get(k.DAEMON_SETS, AGENT, namespace) or {}
    expected_agents = int((daemon.get("status") or {}).get("desiredNumberScheduled", 0))
    code, body = programs.get_apiserver("v1/status?nodes=true")
    if code != 200:
        raise CommandError(
            f"clustermesh-apiserver does not answer yet (HTTP {code}: {read_refusal(body)}); "
            f"see kubectl -n {namespace} get pods",
            ExitCode.DEGRADED,
        )
    try:
        status = decode_apiserver(body)
    except msgspec.DecodeError as exc:
        raise CommandError(f"clustermesh-apiserver answered something else than its status: {exc}") from exc
    peers = read_peers(client.get(k.SECRETS, PEERS_SECRET, namespace))
    verdict = assess(
        status,
        expected_peers=peers,
        expected_agents=max(expected_agents, 1),
        certificates=read_certificates(client, namespace),
        now_s=CLOCK.wall(),
    )
    access = find_access(service, client.list(k.NODES))
    return Snapshot(access, service["spec"].get("type", "ClusterIP"), status, verdict, peers)


def status(client: KubeClient, namespace: str, console: Console, *, wait_s: float | None, as_json: bool) -> ExitCode:
    """Print the state, after waiting for it to be well if asked; the exit code says what was found."""
    programs = ProgramClient(client, namespace)
    try:
        snapshot = look(programs) if wait_s is None else _wait(programs, console, wait_s, quiet=as_json)
        code = ExitCode.OK if snapshot.verdict.is_well else ExitCode.DEGRADED
    except _NotInTimeError as exc:
        if exc.snapshot is None:
            raise CommandError(str(exc), ExitCode.TIMEOUT) from exc
        snapshot, code = exc.snapshot, ExitCode.TIMEOUT
    if as_json:
        document = {**msgspec.to_builtins(snapshot.status), "verdict": asdict(snapshot.verdict)}
        console.line(msgspec.json.encode(document).decode())
    else:
        render_status(
            snapshot.status, snapshot.verdict, snapshot.access, snapshot.service_type, console, now_s=CLOCK.wall()
        )
    return code


def wait_until_ready(client: KubeClient, namespace: str, console: Console, wait_s: float, *, context: str) -> None:
    """Return once the cluster is well. Raises CommandError (timeout) naming what is not."""
    try:
        _wait(ProgramClient(client, namespace), console, wait_s, quiet=False)
    except _NotInTimeError as exc:
        raise CommandError(f"{context}: {exc}", ExitCode.TIMEOUT) from exc


class _NotInTimeError(Exception):
    def __init__(self, message: str, snapshot: Snapshot | None) -> None:
        super().__init__(message)
        self.snapshot = snapshot


def _wait(programs: ProgramClient, console: Console, wait_s: float, *, quiet: bool) -> Snapshot:
    started = time.monotonic()
    said = started
    snapshot: Snapshot | None = None
    while True:
        try:
            snapshot = look(programs)
            last = snapshot.verdict.problems[0] if snapshot.verdict.problems else ""
        except (CommandError, KubeError) as exc:
            last = str(exc)
        if snapshot is not None and not last:
            return snapshot
        now = time.monotonic()
        if now - started >= wait_s:
            raise _NotInTimeError(f"timeout while waiting for condition, last error: {last}", snapshot)
        if now - said >= SAY_EVERY_S and not quiet:
            said = now
            console.wait(f"Waiting ({now - started:.0f}s): {last}")
        threading.Event().wait(RETRY_S)
