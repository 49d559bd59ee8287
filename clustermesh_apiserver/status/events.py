# SPDX-License-Identifier: Apache-2.0
"""What happened to this program, its certificates, the peers that it mirrors and those that read it."""

from __future__ import annotations

from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.status.program_status import report_health
from meshapi.event import MeshLook
from meshapi.installed import APISERVER, REMOTE_USER
from meshkit.clock import Clock
from meshkit.health import Health
from meshpeer.events import EventLog


def make_event_log(apiserver: Apiserver, health: Health, clock: Clock) -> EventLog:
    """The events of this program; it looks by itself once it runs."""
    return EventLog(lambda: look(apiserver, health), clock, cluster=apiserver.settings.cluster_name, program=APISERVER)


def look(apiserver: Apiserver, health: Health) -> MeshLook:
    """The program as it is now."""
    report_health(apiserver, health)
    server = apiserver.facade_server
    connections = server.facade.connections() if server.facade is not None else ()
    return MeshLook(
        peers={peer.name: peer for peer in apiserver.peers()},
        health={name: (part.level, part.message) for name, part in health.snapshot().items()},
        certificates={"server certificate": server.not_after_s},
        readers=frozenset(c.name.removeprefix(REMOTE_USER) for c in connections if c.name.startswith(REMOTE_USER)),
    )
