# SPDX-License-Identifier: Apache-2.0
"""Where Hubble's API is served: on a unix socket, and over the network once there are certificates for it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Final

from agent.core import Core
from agent.tables import AgentDB
from certs.profile import names_another_cluster
from flows.listener import ServerCertificates
from flows.methods import PeerFacts, tls_server_name
from flows.server import ObserverServer, Served
from flows.streams import FlowStreams
from flows.words import qualified_name
from meshapi.installed import FLOW_SOCKET
from meshkit.task_group import TaskGroup

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
RETRY_S: Final = 5.0
ANY: Final = "0.0.0.0"


async def serve_flows(core: Core, served: Served, streams: FlowStreams) -> None:
    """Until cancelled. Raises: OSError when the socket cannot be bound."""
    settings = core.settings
    path = Path(settings.flow_socket) if settings.flow_socket else settings.socket.parent / FLOW_SOCKET
    local = ObserverServer(served, core.clock, streams)
    bind_private(local, path)
    await local.start()
    try:
        async with TaskGroup() as group:
            group.create_task(_sweep(core, streams), name="stalled readers of flows")
            if settings.flow_port:
                group.create_task(_serve_network(core, served, streams), name="flows over the network")
    finally:
        await local.stop()


def bind_private(server: ObserverServer, path: Path) -> None:
    """Only our user may connect to the socket; one that was left behind is replaced. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server.listen_unix(str(path))
    finally:
        os.umask(before)


def read_certificates(folder: Path) -> ServerCertificates | None:
    """What the folder holds now; None while a file is missing."""
    try:
        ca, cert, key = ((folder / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
    except OSError:
        return None
    return ServerCertificates(ca, cert, key)


def peers_of(db: AgentDB, port: int) -> dict[str, PeerFacts]:
    """The observers of this cluster's nodes, by name."""
    found: dict[str, PeerFacts] = {}
    for node in db.nodes.rows():
        address = next((a.ip for a in node.addresses if a.kind == "InternalIP"), "")
        if node.cluster == db.own and address:
            host = f"[{address}]" if ":" in address else address
            facts = PeerFacts(f"{host}:{port}", tls_server_name(db.own, node.name))
            found[qualified_name(db.own, node.name)] = facts
    return found


async def _sweep(core: Core, streams: FlowStreams) -> None:
    while True:
        await core.clock.sleep(SWEEP_S)
        await streams.cut_stalled(core.clock.monotonic())


async def _serve_network(core: Core, served: Served, streams: FlowStreams) -> None:
    """As soon as there are certificates and the port is free."""
    folder, where = core.settings.flow_certificates, f"{ANY}:{core.settings.flow_port}"
    while True:
        if read_certificates(folder) is not None:
            server = ObserverServer(served, core.clock, streams, lambda name: names_another_cluster(name, core.db.own))
            try:
                server.listen_tls(where, lambda: read_certificates(folder))
            except OSError as exc:
                core.health.degraded("flows", str(exc))
                await server.stop()
            else:
                core.health.ok("flows")
                log.info("flows are served", extra={"endpoint": where})
                await server.start()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    await server.stop()
        await core.clock.sleep(RETRY_S)
