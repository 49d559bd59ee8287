# SPDX-License-Identifier: Apache-2.0
"""kubectl exec over SPDY and WebSocket: streams, exit codes, sizes, terminals."""

from __future__ import annotations

import pytest

from tests.integration.devkube.harness import Kubectl


@pytest.mark.parametrize("transport", ["true", "false"])
async def test_exec_passes_streams_and_exit_codes(rebel_base: Kubectl, transport: str) -> None:
    how = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": transport}
    command = ("exec", "deployments/rebel-base", "--", "sh", "-c", "echo to-out; echo to-err >&2; exit 28")
    result = await rebel_base(*command, **how)
    assert (result.code, result.out) == (28, "to-out\n")
    assert "to-err" in result.err
    echoed = await rebel_base.ok("exec", "-i", "deploy/rebel-base", "--", "cat", stdin="through the wire\n", **how)
    assert echoed == "through the wire\n"


@pytest.mark.parametrize("transport", ["true", "false"])
async def test_exec_passes_megabytes_both_ways(rebel_base: Kubectl, transport: str) -> None:
    how = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": transport}
    data = "0123456789abcdef" * 131072
    counted = await rebel_base.ok("exec", "-i", "deploy/rebel-base", "--", "wc", "-c", stdin=data, **how)
    assert int(counted) == len(data)
    read = await rebel_base.ok("exec", "deploy/rebel-base", "--", "head", "-c", "3000000", "/dev/zero", **how)
    assert len(read) == 3000000


@pytest.mark.parametrize("transport", ["true", "false"])
async def test_exec_says_why_a_command_cannot_start(rebel_base: Kubectl, transport: str) -> None:
    how = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": transport}
    failed = await rebel_base("exec", "deploy/rebel-base", "--", "absent", **how)
    assert failed.code != 0
    assert "executable file not found" in failed.err
    missing = await rebel_base("exec", "deploy/rebel-base", "-c", "nobody", "--", "true", **how)
    assert "nobody" in missing.err


@pytest.mark.parametrize("transport", ["true", "false"])
async def test_exec_with_a_terminal_has_its_size(rebel_base: Kubectl, transport: str) -> None:
    remote = "until [ $(stty size | cut -d' ' -f1) = 33 ]; do :; done; tty; stty size; exit 7"
    result = await rebel_base.in_terminal(
        33, 91, "exec", "-ti", "deploy/rebel-base", "--", "sh", "-c", remote,
        KUBECTL_REMOTE_COMMAND_WEBSOCKETS=transport,
    )  # fmt: skip
    assert result.code == 7, result.out
    assert "/dev/pts/" in result.out
    assert "33 91" in result.out


@pytest.mark.parametrize("transport", ["true", "false"])
async def test_exec_survives_a_command_that_stops_reading(rebel_base: Kubectl, transport: str) -> None:
    how = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": transport}
    first = await rebel_base.ok("exec", "-i", "deploy/rebel-base", "--", "head", "-1", stdin="line\n" * 200000, **how)
    assert first == "line\n"
