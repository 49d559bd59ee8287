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
from clustermesh_cli.listed_rows import ListedKind
from e2e.command import CONNECTION, FAILED, versions
from e2e.mesh import CLUSTERS, COMMAND_LIMIT_S, PROGRAMS, Mesh

ENDS: Final = ("--from", "default/x-wing", "--to", "default/rebel-base", "--port", "80/TCP")
POLICY: Final = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nothing}
spec: {endpointSelector: {}, ingress: [{}]}
"""
WORDS: Final = (
    "certs create",
    "certs show",
    "certs rotate",
    "check",
    "check --matrix --destination-context kind-tion",
    "config view",
    f"connect {' '.join(CONNECTION)}",
    "disable",
    "disable --force",
    f"disconnect {' '.join(CONNECTION)}",
    "disconnect tion",
    "drain tion",
    "enable --dry-run",
    "events",
    "events -f",
    f"explain policy {' '.join(ENDS)}",
    "explain service default/rebel-base",
    *(f"get {kind}" for kind in ListedKind),
    "flows list namespaces",
    "flows list nodes",
    "flows status",
    "get nodes -o json",
    "inspect-policy-default-local-cluster",
    "kv get cilium/cluster-config/koornacht",
    "kv ls",
    "kv watch --limit 1",
    "observe --last 5",
    "observe -f",
    "policy diff {file}",
    "policy eval --file {file}",
    "policy lint {file}",
    "policy suggest",
    "status",
    "status --summary",
    "undrain tion",
)
KEPT: Final = ("disable", "disconnect", "connect", "drain", "undrain")
"""Verbs that change nothing where nothing can be said."""
NOWHERE: Final = {"hubble port-forward", "ui"}
"""Verbs that go on until they are interrupted, and need a relay, which this lab does not run."""
CASE: Final = '{"identities": {}, "policies": [], "flows": []}'


def verbs(command: object = None, path: tuple[str, ...] = ()) -> Iterator[str]:
    command = command or typer.main.get_command(app)
    for name, inner in (getattr(command, "commands", None) or {}).items():
        if getattr(inner, "commands", None):
            yield from verbs(inner, (*path, name))
        elif name != "lab":
            yield " ".join((*path, name))


def test_every_verb_is_here() -> None:
    assert {verb for verb in verbs() if not any(f"{words} ".startswith(f"{verb} ") for words in WORDS)} == NOWHERE


@pytest.mark.parametrize("words", WORDS)
def test_an_answer_that_cannot_be_written_is_one_line_at_most(mesh: Mesh, tmp_path: Path, words: str) -> None:
    file, temporary = tmp_path / "file", tmp_path / "temporary"
    file.write_text(CASE if words.startswith("policy eval") else POLICY)
    temporary.mkdir()
    environment = {**os.environ, "KUBECONFIG": str(mesh.names.kubeconfig("global")), "TMPDIR": str(temporary)}
    before = {cluster: versions(mesh, cluster) for cluster in CLUSTERS} if words.startswith(KEPT) else {}

    def run(stdout: int) -> tuple[int, str]:
        done = subprocess.run(
            [str(PROGRAMS / "clustermesh"), *words.format(file=file).split()],
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
    assert list(temporary.iterdir()) == []
    assert {cluster: versions(mesh, cluster) for cluster in before} == before
