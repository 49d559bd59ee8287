# SPDX-License-Identifier: Apache-2.0
"""Whether the relay of flows answers, and for which nodes, where a cluster has one."""

from __future__ import annotations

from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.flow_sources import ClusterRelay
from clustermesh_cli.plan.relay_rules import RelayState
from clustermesh_cli.program_client import ProgramClient
from flows.errors import RequestError
from flows.proto import relay_pb2 as relay


def ask_relay(programs: ProgramClient) -> RelayState | None:
    """None where the cluster has no relay. Raises: KubeError where nobody can say whether it has one."""
    found = ClusterRelay(programs)
    if not found.is_installed():
        return None
    try:
        nodes = found.nodes().nodes
    except (CommandError, RequestError) as exc:
        return RelayState(problem=str(exc))
    silent = sorted(node.name for node in nodes if node.state != relay.NODE_CONNECTED)
    return RelayState(len(nodes), tuple(silent))
