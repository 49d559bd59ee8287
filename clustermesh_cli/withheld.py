# SPDX-License-Identifier: Apache-2.0
"""What the caller may not see of a cluster: left out of an answer, and named in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kube.errors import Forbidden

_T = TypeVar("_T")


class Withheld:
    """Reads for an answer that holds what the caller may see. `notices` are sentences about the rest."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def read(self, what: str, call: Callable[[], _T]) -> _T | None:
        """What the call gives, or None where the API server forbids it to the caller."""
        try:
            return call()
        except Forbidden as exc:
            self.notices.append(f"not shown to you, and not judged: {what} ({exc.detail or exc})")
            return None
