# SPDX-License-Identifier: Apache-2.0
"""Every verb of the command, run where its answer cannot be written: one line for a full disk, none for a closed pipe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import typer.main

from clustermesh_cli.app import app
from e2e.command import CONNECTION, FAILED
from e2e.mesh import COMMAND_LIMIT_S, PROGRAMS, Mesh

ENDS: Final = ("--from", "default/x-wing", "--to", "default/rebel-base", "--port", "80/TCP")
POLICY: Final = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nothing}
spec: {endpointSelector: {}, ingress: [{}]}
"""
WORDS: Final = {
    "certs show": (),
    "certs rotate": (),
    "check": (),
    "config view": (),
    "connect": CONNECTION,
    "enable": ("--dry-run",),
    "events": (),
    "explain policy": ENDS,
    "get": ("nodes",),
    "inspect-policy-default-local-cluster": (),
    "kv get": ("cilium/cluster-config/koornacht",),
    "kv ls": (),
    "kv watch": ("--limit", "1"),
    "policy diff": ("{file}",),
    "policy eval": ("--file", "{file}"),
    "policy lint": ("{file}",),
    "status": (),
}
REMOVING: Final = {"disable", "disconnect"}
"""These take the mesh away that the other scenarios need."""
CASE: Final = '{"identities": {}, "policies": [], "flows": []}'


def verbs(command: object = None, path: tuple[str, ...] = ()) -> Iterator[str]:
    command = command or typer.main.get_command(app)
    for name, inner in (getattr(command, "commands", None) or {}).items():
        if getattr(inner, "commands", None):
            yield from verbs(inner, (*path, name))
        elif name != "lab":
            yield " ".join((*path, name))


def test_every_verb_is_here() -> None:
    assert set(verbs()) == set(WORDS) | REMOVING


@pytest.mark.parametrize("verb", WORDS)
def test_an_answer_that_cannot_be_written_is_one_line_at_most(mesh: Mesh, tmp_path: Path, verb: str) -> None:
    file = tmp_path / "file"
    file.write_text(CASE if verb == "policy eval" else POLICY)
    words = [word.format(file=file) for word in WORDS[verb]]
    environment = {**os.environ, "KUBECONFIG": str(mesh.names.kubeconfig("global"))}

    def run(stdout: int) -> tuple[int, str]:
        done = subprocess.run(
            [str(PROGRAMS / "clustermesh"), *verb.split(), *words],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
            env=environment,
        )
        return done.returncode, done.stderr

    full = os.open("/dev/full", os.O_WRONLY)
    found = run(full)
    os.close(full)
    assert found == (FAILED, "Error: the answer cannot be written: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    found = run(writing)
    os.close(writing)
    assert found == (FAILED, "")
