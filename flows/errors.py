# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a request for flows. Pure."""

from __future__ import annotations

from meshkit.errors import PermanentError


class FilterError(PermanentError):
    """A filter that means nothing: `field` and what is wrong with its value."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field


class RequestError(PermanentError):
    """A request whose parts contradict each other."""
