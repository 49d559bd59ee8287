# SPDX-License-Identifier: Apache-2.0
"""How a proxy is started: with all files that it may open, and a log that cannot fill the node's disk."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LARGEST_FILE_BYTES: Final = 64 << 20
"""Of its logs, which nobody cuts while no agent runs: what goes beyond is not written."""
_LONGEST_LOG_BYTES: Final = 4 << 20


def launch(command: Sequence[str], log: Path, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """The process. `descriptors` stay open in it. Raises: OSError."""
    if log.exists() and log.stat().st_size > _LONGEST_LOG_BYTES:
        os.truncate(log, 0)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = ("prlimit", f"--fsize={LARGEST_FILE_BYTES}", f"--nofile={files}")
    with log.open("ab") as written:
        return subprocess.Popen(
            (*limits, *command),
            stdin=subprocess.DEVNULL, stdout=written, stderr=written,
            pass_fds=descriptors, start_new_session=True, cwd="/",
            restore_signals=False,  # SIGXFSZ stays ignored: a full log is no reason to end
        )  # fmt: skip
