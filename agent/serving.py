# SPDX-License-Identifier: Apache-2.0
"""Where the agent answers: its unix socket, the node's addresses behind a guard, and a port for probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent.settings import LOOPBACK
from agent.status_api import make_api
from kube.review import AccessReviewer
from meshapi.installed import TOKEN_AUDIENCE, TOKEN_HEADER
from meshkit.guard import App, Guard, admit_nobody
from meshkit.http import bind, bind_unix, probes, serve
from meshkit.probe_server import serve_probes
from meshkit.supervise import together
from meshkit.task_group import TaskGroup

if TYPE_CHECKING:
    from agent.core import Core
    from agent.feature import Feature
    from agent.reports import Reconcilers

RETRY_S: Final = 1.0


async def serve_agent(core: Core, features: Sequence[Feature], reconcilers: Reconcilers) -> None:
    """REST, and what features serve beside it, until cancelled: everything on the socket; over the network what a token opens.

    Raises: OSError when an address or the socket cannot be bound.
    """
    settings, client, health = core.settings, core.client, core.health
    app = make_api(core, features, reconcilers)
    admit = AccessReviewer(client, TOKEN_AUDIENCE, core.clock).admit if client is not None else admit_nobody
    guarded = Guard(app, admit, headers=(TOKEN_HEADER,), clock=core.clock)
    listening = bind(settings.listen or LOOPBACK, settings.port)
    port, private = int(listening[0].getsockname()[1]), bind_unix(settings.socket)
    jobs = {name: server for feature in features for name, server in feature.servers().items()}
    if not settings.listen:
        jobs["rest on the node's address"] = serve_at_node(core, guarded, port)
    await together(
        jobs
        | {
            "rest": serve(guarded, sockets=listening),
            "rest on the socket": serve(app, sockets=[private]),
            "probes": serve_probes(LOOPBACK, settings.probe_port, probes(health, health.ready)),
        }
    )


async def serve_at_node(core: Core, app: App, port: int) -> None:
    """Until cancelled: the node's address is listened on, and every other that it gets, as soon as a device has that.

    A former address is listened on still: the API server asks an agent there until the kubelet has said where it is now.
    Raises: OSError when the first address cannot be bound.
    """
    db, served = core.db, {LOOPBACK}
    async with TaskGroup() as group:
        while True:
            rung, address = db.moved.count, db.node_address
            if address not in served:
                try:
                    sockets = bind(address, port)
                except OSError as exc:
                    if not db.former_addresses:
                        raise
                    core.health.degraded("rest", str(exc))
                    await core.clock.sleep(RETRY_S)
                    continue
                served.add(address)
                group.create_task(serve(app, sockets=sockets), name=f"rest on {address}")
            core.health.ok("rest")
            await db.moved.wait(rung)
