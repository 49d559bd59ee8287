# SPDX-License-Identifier: Apache-2.0
"""The command `clustermesh-apiserver`: flags in, exit code out. Stopping leaves every published key where it is."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.run import make_apiserver, run
from clustermesh_apiserver.settings import ApiserverSettings
from kube.config import load_client
from meshapi.installed import APISERVER
from meshkit import last_words
from meshkit import log as meshlog
from meshkit.errors import MeshError
from meshkit.settings import load
from meshkit.supervise import first_error
from meshkit.version import program_version

log = logging.getLogger(__name__)

YOUNG_OBJECTS: Final = 20_000
"""New objects between two collections: rows of a first listing are kept anyway, and form no cycles."""


async def _run_until_signal(apiserver: Apiserver) -> None:
    task = asyncio.create_task(run(apiserver), name=APISERVER)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info(
            "stopped, published keys stay until their leases end", extra={"cluster": apiserver.settings.cluster_name}
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `clustermesh-apiserver`; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "troubleshoot":
        from clustermesh_apiserver.mirror.troubleshoot import try_mirrored

        last_words.run(lambda: try_mirrored(words[1:]))
    settings = load(ApiserverSettings, words, program=APISERVER, version=f"{APISERVER} {program_version()}")
    meshlog.setup(settings.log_level)
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        client = load_client(settings.kubeconfig or None, settings.context or None)
        asyncio.run(_run_until_signal(make_apiserver(settings, client)))
    except MeshError as exc:
        sys.stderr.write(f"{APISERVER}: {exc}\n")
        return 1
    except BaseExceptionGroup as errors:
        log.exception("ended by an error", extra={"error": repr(first_error(errors))})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
