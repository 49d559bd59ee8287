# SPDX-License-Identifier: Apache-2.0
"""How a verdict reads: the same facts in the order of `cilium clustermesh status`, and a RESULT line a script can look for."""

from __future__ import annotations

from datetime import UTC, datetime

from clustermesh_cli.console import Console
from clustermesh_cli.mesh_health import MeshHealth, is_mirrored
from clustermesh_cli.plan.facts import StoreAccess
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus

_COLUMNS = f"{'NODE':<28}{'PEER':<14}{'ID':>4}  {'STATE':<11}{'NODES':>6}{'SERVICES':>9}{'ENDPOINTS':>10}{'IDENTITIES':>11}  AGE"


def render_status(
    status: ApiserverStatus, verdict: MeshHealth, access: StoreAccess | None, service_type: str, console: Console
) -> None:
    """Print everything `clustermesh status` says."""
    console.line(
        f"CLUSTER {status.cluster} (id {status.cluster_id})   {verdict.ready_nodes}/{verdict.nodes} agents ready"
    )
    console.ok(f'Service "clustermesh-apiserver" of type "{service_type}" found')
    if access is None:
        console.warn("It has no address yet")
    else:
        console.ok("Cluster access information is available:")
        for address in access.addresses:
            console.line(f"  - {address}:{access.port}")
    (console.ok if status.ready else console.fail)(
        f"Deployment clustermesh-apiserver is {'ready' if status.ready else 'not ready'}"
    )
    if status.certificate_not_after:
        console.info(
            f"Certificates last until {datetime.fromtimestamp(status.certificate_not_after, UTC):%Y-%m-%d %H:%M} UTC"
        )
    published = ", ".join(f"{count} {kind}" for kind, count in status.published.items())
    console.info(f"Published: {published or 'nothing yet'}")
    console.line()
    console.line("Cluster Connections:")
    for peer in verdict.peers:
        console.line(
            f"  - {peer.name}: {peer.configured}/{verdict.nodes} configured, {peer.connected}/{verdict.nodes} connected"
        )
    if not verdict.peers:
        console.line("  none yet: clustermesh connect --destination-context <other cluster>")
    if is_mirrored(status) and status.peers:
        console.line("Mirrored into this cluster's own store, where agents read them:")
        for copied in status.peers:
            console.line(
                f"  - {copied.name}: {copied.state}, {copied.num_nodes} nodes, {copied.num_shared_services} services, "
                f"{copied.num_endpoints} endpoints, {copied.num_identities} identities, age {_age(copied.age_s)}"
            )
    if any(agent.peers for agent in status.agents):
        console.line()
        console.line(_COLUMNS)
        for agent in sorted(status.agents, key=lambda a: a.node):
            _render_agent(agent, console)
    console.line()
    for warning in verdict.warnings:
        console.warn(warning)
    for problem in verdict.problems:
        console.fail(problem)
    result = "well" if verdict.is_well else f"degraded: {len(verdict.problems)} problems"
    console.line(f"RESULT {result}")


def _render_agent(agent: AgentStatus, console: Console) -> None:
    for peer in sorted(agent.peers, key=lambda p: p.name):
        console.line(
            f"{agent.node:<28}{peer.name:<14}{peer.config.cluster_id:>4}  {peer.state:<11}{peer.num_nodes:>6}"
            f"{peer.num_shared_services:>9}{peer.num_endpoints:>10}{peer.num_identities:>11}  {_age(peer.age_s)}"
        )


def _age(age_s: float | None) -> str:
    return "-" if age_s is None else f"{age_s:.0f}s"
