# SPDX-License-Identifier: Apache-2.0
"""Threads that decode a type of ours for the first time at once; what goes wrong there ends the process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from meshapi.probe import NodeProbes
from meshkit.decoding import convert_as, decode_as

ROOT = Path(__file__).parents[3]
AT_ONCE = """
import sys, threading
import msgspec
from meshkit.decoding import convert_as, decode_as
from meshapi.probe import NodeProbes

sys.setswitchinterval(1e-6)
together = threading.Barrier(16)

def decode():
    together.wait()
    try:
        HOW
    except msgspec.ValidationError:
        pass

threads = [threading.Thread(target=decode) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
TEXT = '{"cluster": "north", "node": "n1", "targets": [{}, {}]}'


@pytest.mark.parametrize(
    "how", [f"decode_as({TEXT!r}, NodeProbes)", f"convert_as(msgspec.json.decode({TEXT!r}), NodeProbes)"]
)
def test_many_threads_may_decode_a_type_for_the_first_time_at_once(how: str) -> None:
    for _ in range(6):
        done = subprocess.run(
            [sys.executable, "-c", AT_ONCE.replace("HOW", how)], cwd=ROOT, check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_such_document_is_refused_with_its_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.targets\[0\]"):
        decode_as(TEXT, NodeProbes)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.targets\[0\]"):
        convert_as(msgspec.json.decode(TEXT), NodeProbes)
    assert decode_as(TEXT.replace("{}, {}", ""), NodeProbes).node == "n1"


def test_the_command_which_asks_from_threads_decodes_its_types_in_no_other_way() -> None:
    found = [
        path
        for folder in ("clustermesh_cli", "meshapi")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"msgspec\.(convert\(|json\.decode\([^)]*type=)", path.read_text())
    ]
    assert found == []
