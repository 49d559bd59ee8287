# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a certificate, a key, or a set of them: never helped by trying again."""

from __future__ import annotations

from meshkit.errors import PermanentError


class CertificateError(PermanentError):
    """A certificate, key or bundle cannot be used as it is."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what, self.problem = what, problem
