# SPDX-License-Identifier: Apache-2.0
"""What is wrong with something another cluster, or a person, said."""

from __future__ import annotations

from typing import Final

from meshkit.errors import PermanentError

_MAXIMUM_TEXT: Final = 256


class ModelError(PermanentError, ValueError):
    """A value is outside the shared model; the message names it and what is expected."""


class RecordError(ModelError):
    """One stored record cannot be used: it is skipped and counted, and the stream goes on.

    `reason` is a short stable label for counters; `detail` says it to a person. Foreign text is cut.
    """

    def __init__(self, key: str, reason: str, detail: str = "") -> None:
        key, detail = _cut(key), _cut(detail)
        super().__init__(f"{key}: {reason}" + (f": {detail}" if detail else ""))
        self.key, self.reason, self.detail = key, reason, detail


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _MAXIMUM_TEXT else text[: _MAXIMUM_TEXT - 1] + "…"
