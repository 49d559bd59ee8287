# SPDX-License-Identifier: Apache-2.0
"""A proxy of a node as the node's keeper has it running."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from agent.proxykeeper.kept_process import KeptProcess, Program
from meshkit.backoff import Backoff
from meshkit.clock import SystemClock
from tests.packet.datapath_host import inside


@contextlib.contextmanager
def kept(program: Program, namespace: str) -> Iterator[KeptProcess]:
    """It runs in the network namespace while it is wanted, and ends at the end."""
    process = KeptProcess(program, Backoff(0.02, 0.2), SystemClock(), lambda: None)
    loop = asyncio.new_event_loop()
    task = loop.create_task(process.run())

    def run() -> None:
        with inside(namespace), contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
            loop.run_until_complete(loop.shutdown_default_executor())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield process
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()
