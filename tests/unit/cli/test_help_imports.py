# SPDX-License-Identifier: Apache-2.0
"""What the command loads before it knows its verb: nothing that a person would wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.kube.kube_recorder import kubeconfig

SLOW = ("rich", "kubernetes", "pydantic", "asyncio", "urllib3", "cryptography", "grpc", "fastapi", "yaml")
NEVER = ("rich", "kubernetes", "pydantic", "asyncio", "grpc", "fastapi")
PROGRAM = f"""
import sys
from clustermesh_cli.app import run_app
try:
    run_app()
except SystemExit:
    pass
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}} & {set(SLOW)!r}))
"""


def loaded(*words: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """How the command ended, and which of the slow libraries it had loaded by then."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=60, check=True
    )
    mark, *names = ended.stdout.splitlines()[-1].split()
    assert mark == "LOADED"
    return ended, set(names)


@pytest.mark.parametrize(
    "words", [["--help"], ["status", "--help"], ["explain", "--help"], ["kv", "--help"], ["certs", "--help"]]
)
def test_help_loads_no_library_that_takes_long(words: list[str]) -> None:
    ended, names = loaded(*words)
    assert ended.stdout.startswith("Usage: ")
    assert not names


def test_the_version_loads_no_library_that_takes_long() -> None:
    ended, names = loaded("--version")
    assert ended.stdout.startswith("clustermesh ")
    assert not names


@pytest.mark.parametrize("words", [["status"], ["status", "--summary"], ["get", "peers"], ["config", "view"]])
def test_a_verb_that_asks_a_cluster_loads_only_what_asking_takes(words: list[str], tmp_path: Path) -> None:
    nobody = kubeconfig(tmp_path / "config", "https://127.0.0.1:9")
    ended, names = loaded(*words, "--kubeconfig", nobody)
    assert "Connection refused" in ended.stderr
    assert not names & set(NEVER)
