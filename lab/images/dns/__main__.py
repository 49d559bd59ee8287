# SPDX-License-Identifier: Apache-2.0
"""The program of the `coredns` image: follow Services and EndpointSlices, answer once everything is known."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Callable, Sequence

from kube.config import load_client
from kube.reflector import Change, Delete, Handler, Reflector, Synced, Upsert
from kube.resource import ENDPOINT_SLICES, SERVICES, KubeObject
from lab.images.dns.server import serve
from lab.images.dns.zone import DnsZone
from meshkit.task_group import TaskGroup

Step = Callable[[KubeObject], None]


def _keep_all(obj: KubeObject) -> KubeObject:
    return obj


def follower(put: Step, remove: Step, synced: asyncio.Event) -> Handler[KubeObject]:
    """A handler that keeps the zone in step with one kind of object."""

    def handle(changes: Sequence[Change[KubeObject]]) -> None:
        for change in changes:
            match change:
                case Upsert(_, obj):
                    put(obj)
                case Delete(_, obj):
                    remove(obj)
                case Synced():
                    synced.set()

    return handle


async def run(address: str, port: int) -> None:
    """Serve until told to end."""
    client = await asyncio.to_thread(load_client)
    zone, services, slices = DnsZone(), asyncio.Event(), asyncio.Event()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with TaskGroup() as group:
        following = [
            Reflector(client, SERVICES, strip=_keep_all).run(follower(zone.set_service, zone.remove_service, services)),
            Reflector(client, ENDPOINT_SLICES, strip=_keep_all).run(
                follower(zone.set_slice, zone.remove_slice, slices)
            ),
        ]
        tasks = [group.create_task(work) for work in following]
        await services.wait()
        await slices.wait()
        tasks.append(group.create_task(serve(zone, address, port)))
        await stop.wait()
        for task in tasks:
            task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster-dns", description="cluster DNS of the lab")
    parser.add_argument("--address", default="0.0.0.0")  # its own network namespace
    parser.add_argument("--port", type=int, default=53)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(run(options.address, options.port))


main()
