# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh-agent` loads before it knows its verb: not what only the running agent needs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("google", "grpc", "meshpolicy", "kvstore", "kube", "fastapi", "uvicorn", "pyroute2")
PROGRAM = f"""
import sys
import agent.app
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}} & {set(HEAVY)!r}))
"""


def test_the_command_loads_neither_policies_nor_messages_before_its_verb() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["LOADED"]
