# SPDX-License-Identifier: Apache-2.0
"""Who learns whom when clusters are connected. Pure."""

from __future__ import annotations

from enum import StrEnum

from clustermesh_cli.exit_code import CommandError, ExitCode


class Mode(StrEnum):
    """Who learns whom: only the local cluster; local and each destination; everybody everybody."""

    UNICAST = "unicast"
    BIDIRECTIONAL = "bidirectional"
    MESH = "mesh"


def parse_mode(text: str) -> Mode:
    """Raises: CommandError (usage) for what is no mode."""
    try:
        return Mode(text)
    except ValueError:
        raise CommandError(f"--connection-mode {text}: choose one of {', '.join(Mode)}", ExitCode.USAGE) from None
