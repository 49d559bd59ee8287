# SPDX-License-Identifier: Apache-2.0
"""How a verdict reads: the same facts in the order of `cilium clustermesh status`, and a RESULT line a script can look for."""

from __future__ import annotations

from certs.validity import date
from clustermesh_cli.console import Console
from clustermesh_cli.mesh_health import MeshHealth
from clustermesh_cli.peer_rows import PeerRow, is_mirrored
from clustermesh_cli.plan.facts import StoreAccess
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus

_PEER_COLUMNS = f"{'PEER':<16}{'ID':>4}  {'SESSION':<12}{'NODES':>7}{'AGE':>7}{'PROBES':>8}{'RTT':>9}  STATE"
_COLUMNS = f"{'NODE':<28}{'PEER':<14}{'ID':>4}  {'STATE':<11}{'NODES':>6}{'SERVICES':>9}{'ENDPOINTS':>10}{'IDENTITIES':>11}  AGE"


def render_status(
    status: ApiserverStatus,
    verdict: MeshHealth,
    access: StoreAccess | None,
    service_type: str,
    console: Console,
    *,
    now_s: float,
) -> None:
    """Print everything `clustermesh status` says at `now_s` (wall seconds)."""
    console.line(
        f"CLUSTER {status.cluster} (id {status.cluster_id})   {verdict.ready_nodes}/{verdict.nodes} agents ready"
    )
    console.ok(f'Service "clustermesh-apiserver" of type "{service_type}" found')
    _render_access(access, console)
    state = "ready" if status.ready else "not ready" if status.health else "silent: the agents were asked one by one"
    (console.ok if status.ready else console.fail)(f"Deployment clustermesh-apiserver is {state}")
    if status.certificate_not_after:
        ended = now_s > status.certificate_not_after
        (console.fail if ended else console.info)(
            f"The server certificate {'expired on' if ended else 'lasts until'} {date(status.certificate_not_after)}"
        )
    if status.health:  # without, agents answered in its place
        published = ", ".join(f"{count} {kind}" for kind, count in status.published.items())
        console.info(f"Published: {published or 'nothing yet'}")
    if verdict.relay and verdict.relay not in (*verdict.warnings, *verdict.problems):
        console.ok(verdict.relay)
    console.line()
    console.line("Cluster Connections:")
    if verdict.peers:
        console.line(_PEER_COLUMNS)
        for peer in verdict.peers:
            _render_peer(peer, verdict.nodes, now_s, console)
    if not verdict.peers:
        console.line("  none yet: clustermesh connect --destination-context <other cluster>")
    if is_mirrored(status) and status.peers:
        console.line("Mirrored into this cluster's own store, where agents read them:")
        for copied in status.peers:
            console.line(
                f"  - {copied.name}: {copied.state}, {copied.num_nodes} nodes, {copied.num_shared_services} services, "
                f"{copied.num_endpoints} endpoints, {copied.num_identities} identities, age {_age(copied.age_s)}"
            )
    _render_agents(status, console)
    console.line()
    for warning in verdict.warnings:
        console.warn(warning)
    for problem in verdict.problems:
        console.fail(problem)
    count = len(verdict.problems) + len(verdict.not_enforced)
    well = "well, as far as it is shown to you" if verdict.withheld else "well"
    result = well if verdict.is_well else f"degraded: {count} problem{'' if count == 1 else 's'}"
    console.line(f"RESULT {result}")


def _render_access(access: StoreAccess | None, console: Console) -> None:
    if access is None:
        console.warn("It has no address yet")
    else:
        console.ok("Cluster access information is available:")
        for address in access.addresses:
            console.line(f"  - {address}:{access.port}")


def _render_agents(status: ApiserverStatus, console: Console) -> None:
    if any(agent.peers for agent in status.agents):
        console.line()
        console.line(_COLUMNS)
        for agent in sorted(status.agents, key=lambda a: a.node):
            _render_agent(agent, console)


def _render_agent(agent: AgentStatus, console: Console) -> None:
    for peer in sorted(agent.peers, key=lambda p: p.name):
        console.line(
            f"{agent.node:<28}{peer.name:<14}{peer.config.cluster_id:>4}  {peer.state:<11}{peer.num_nodes:>6}"
            f"{peer.num_shared_services:>9}{peer.num_endpoints:>10}{peer.num_identities:>11}  {_age(peer.age_s)}"
        )


def _render_peer(peer: PeerRow, nodes: int, now_s: float, console: Console) -> None:
    session = f"up {_age(max(0.0, now_s - peer.session_since))}" if peer.session_since else "down"
    probes = f"{peer.probes_reached}/{peer.probes_total}" if peer.probes_total else "-"
    rtt = "-" if peer.rtt_s is None else f"{peer.rtt_s * 1000:.1f}ms"
    state = f"{peer.state}: {peer.reason}" if peer.reason else peer.state
    console.line(
        f"{peer.name:<16}{peer.id or '-':>4}  {session:<12}{f'{peer.connected}/{nodes}':>7}"
        f"{_age(peer.age_s):>7}{probes:>8}{rtt:>9}  {state}"
    )


def _age(age_s: float | None) -> str:
    return "-" if age_s is None else f"{age_s:.0f}s"
