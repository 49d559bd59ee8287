# SPDX-License-Identifier: Apache-2.0
"""How a command ends: its exit code, and the errors that carry one."""

from __future__ import annotations

from enum import IntEnum

from meshkit.errors import PermanentError


class ExitCode(IntEnum):
    """What a script may rely on; listed in docs/status.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    DEGRADED = 3
    CHECK_FAILED = 4
    TIMEOUT = 5
    REFUSED = 6


class CommandError(PermanentError):
    """The command stops here; `message` says what, where and how to fix it."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class CommandRefusedError(CommandError):
    """What was asked would leave the mesh in a state we know to be wrong; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.REFUSED)
