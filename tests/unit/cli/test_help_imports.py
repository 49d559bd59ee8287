# SPDX-License-Identifier: Apache-2.0
"""What the command loads before it knows its verb: nothing that a person would wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("rich", "kubernetes", "urllib3", "cryptography", "grpc", "fastapi", "yaml")
PROGRAM = f"""
import sys
from clustermesh_cli.app import app
try:
    app(sys.argv[1:])
except SystemExit:
    pass
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}} & {set(SLOW)!r}))
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["status", "--help"], ["explain", "--help"], ["kv", "--help"], ["certs", "--help"]]
)
def test_help_loads_no_library_that_takes_long(words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.startswith("Usage: ")
    assert ended.stdout.splitlines()[-1].split() == ["LOADED"]
