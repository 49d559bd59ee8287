# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of `clustermesh` verbs, beside a bare interpreter and one that imports the package `kubernetes`.

The API server is a small one of ours in another process of this machine; it answers as a healthy cluster of three nodes does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.command.api_server import healthy_cluster
from tests.unit.kube.kube_recorder import kubeconfig

RUNS: Final = 7
COMMAND: Final = [sys.executable, "-c", "from clustermesh_cli.start import main; main()"]


def run() -> dict[str, object]:
    """Figures by verb: the least of some runs, as load of the machine only adds."""
    with healthy_cluster() as port, tempfile.TemporaryDirectory() as folder:
        config = kubeconfig(Path(folder) / "config", f"http://127.0.0.1:{port}")
        asking = ["--kubeconfig", config]
        figures = {
            "python": cpu_s([sys.executable, "-c", "pass"]),
            "python, import kubernetes.config": cpu_s([sys.executable, "-c", "import kubernetes.config"]),
            "--version": cpu_s([*COMMAND, "--version"]),
            "--help": cpu_s([*COMMAND, "--help"]),
            "status --help": cpu_s([*COMMAND, "status", "--help"]),
            "status": cpu_s([*COMMAND, "status", *asking]),
            "status --summary": cpu_s([*COMMAND, "status", "--summary", *asking]),
            "get peers": cpu_s([*COMMAND, "get", "peers", *asking]),
        }
    return {"cpu_s": figures, "targets_s": {"--help": 0.15, "status": 0.35}}


def cpu_s(words: Sequence[str]) -> float:
    """The least CPU time of one process. Raises: CalledProcessError where it does not end well."""
    return round(min(_once(words) for _ in range(RUNS)), 3)


def _once(words: Sequence[str]) -> float:
    before = os.times()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
