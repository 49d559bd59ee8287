# SPDX-License-Identifier: Apache-2.0
"""Connections of a pod that stay open while something happens, and are asked once more afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from e2e.mesh import Mesh

KEPT: Final = """
import http.client, sys
held = [http.client.HTTPConnection("rebel-base", timeout=10) for _ in range({count})]
def ask(connection):
    connection.request("GET", "/")
    return "Tion" if "Tion" in connection.getresponse().read().decode() else "Koornacht"
print(*map(ask, held))
sys.stdin.readline()
print(*map(ask, held))
"""


@contextmanager
def kept(mesh: Mesh, pod: str, count: int) -> Iterator[tuple[list[str], Callable[[], list[str]]]]:
    """So many connections of an x-wing pod stay open; by whom they were answered, and the call that asks once more."""
    command = ["kubectl", f"--kubeconfig={mesh.names.kubeconfig('koornacht')}", "exec", "-i", pod, "--"]
    words = [*command, "python3", "-uc", KEPT.format(count=count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def ask_again() -> list[str]:
            answered, _ = process.communicate("again\n", timeout=30)
            return answered.split()

        yield process.stdout.readline().split(), ask_again
