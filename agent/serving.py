# SPDX-License-Identifier: Apache-2.0
"""Where the agent answers: its unix socket, the node's addresses behind a guard, and a port for probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.status_api import make_api
from kube.review import AccessReviewer
from meshapi.installed import TOKEN_AUDIENCE, TOKEN_HEADER
from meshkit.guard import Guard, admit_nobody
from meshkit.http import bind_unix, probes, serve
from meshkit.probe_server import serve_probes
from meshkit.supervise import together

if TYPE_CHECKING:
    from agent.core import Core
    from agent.feature import Feature
    from agent.reports import Reconcilers

LOOPBACK = "127.0.0.1"


async def serve_agent(core: Core, features: Sequence[Feature], reconcilers: Reconcilers) -> None:
    """The REST interface is served until cancelled: everything on the socket; over the network what a token opens.

    Raises: OSError when an address or the socket cannot be bound.
    """
    settings, client, health = core.settings, core.client, core.health
    app = make_api(core, features, reconcilers)
    admit = AccessReviewer(client, TOKEN_AUDIENCE, core.clock).admit if client is not None else admit_nobody
    hosts = settings.listen or tuple(dict.fromkeys((LOOPBACK, core.facts.node_ip)))
    await together(
        {
            "rest": serve(Guard(app, admit, headers=(TOKEN_HEADER,)), hosts, settings.port),
            "rest on the socket": serve(app, sockets=[bind_unix(settings.socket)]),
            "probes": serve_probes(LOOPBACK, settings.probe_port, probes(health, health.ready)),
        }
    )
