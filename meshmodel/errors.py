# SPDX-License-Identifier: Apache-2.0
"""Errors raised while reading what another cluster published."""

from __future__ import annotations

from meshkit.errors import PermanentError


class ModelError(PermanentError, ValueError):
    """A value is outside the shared model; the message names it and says what is allowed."""


class RecordError(ModelError):
    """One stored record cannot be used. It is skipped and counted under `reason`; the stream goes on."""

    def __init__(self, key: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{key[:256]}: {reason}{': ' + detail[:256] if detail else ''}")
        self.key, self.reason, self.detail = key, reason, detail
