# SPDX-License-Identifier: Apache-2.0
"""Who holds connections to a program and asks nothing keeps nobody from it."""

from __future__ import annotations

from typing import Final

from e2e.mesh import SYSTEM, Mesh
from meshapi.installed import AGENT_PORT, AGENT_SELECTOR, PROBE_PORT

FOLLOWERS: Final = 600


def test_six_hundred_idle_connections_leave_probes_and_the_command_alone(mesh: Mesh) -> None:
    """Nobody who is not admitted keeps a connection, and liveness has a port of its own."""
    _, node, _ = mesh.pod("koornacht", "x-wing")
    (agent,) = (p for p in mesh.pods("koornacht", AGENT_SELECTOR, SYSTEM) if p["spec"]["nodeName"] == node)
    address, before = agent["status"]["podIP"], agent["status"]["containerStatuses"][0]["restartCount"]
    script = (
        "import socket,sys,time\n"
        f"held=[socket.create_connection(('{address}',{AGENT_PORT}),5) for _ in range({FOLLOWERS})]\n"
        "print('held',flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = mesh.start_on_node(node, "python3", "-c", script)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        assert mesh.on_node(node, "curl", "-sf", "--max-time", "2", f"http://127.0.0.1:{PROBE_PORT}/healthz").stdout
        assert mesh.agent("koornacht", node, "node", "list", check=True).stdout
    finally:
        holder.communicate(timeout=20)
    (after,) = (p for p in mesh.pods("koornacht", AGENT_SELECTOR, SYSTEM) if p["spec"]["nodeName"] == node)
    assert after["status"]["containerStatuses"][0]["restartCount"] == before
