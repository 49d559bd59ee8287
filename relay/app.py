# SPDX-License-Identifier: Apache-2.0
"""The command `clustermesh-relay`: flags in, exit code out."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from kube.config import load_client
from meshapi.installed import RELAY
from meshkit import log as meshlog
from meshkit.errors import MeshError
from meshkit.settings import load
from meshkit.supervise import first_error
from meshkit.version import program_version
from relay.run import FlowRelay
from relay.settings import RelaySettings

log = logging.getLogger(__name__)


async def _run_until_signal(relay: FlowRelay) -> None:
    task = asyncio.create_task(relay.run(), name=RELAY)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """The command `clustermesh-relay`; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    settings = load(RelaySettings, words, program=RELAY, version=f"{RELAY} {program_version()}")
    meshlog.setup(settings.log_level)
    try:
        client = load_client(settings.kubeconfig or None, settings.context or None)
        asyncio.run(_run_until_signal(FlowRelay(settings, client)))
    except (MeshError, OSError) as exc:
        sys.stderr.write(f"{RELAY}: {exc}\n")
        return 1
    except BaseExceptionGroup as errors:
        log.exception("ended by an error", extra={"error": repr(first_error(errors))})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
