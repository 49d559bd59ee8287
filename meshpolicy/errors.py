# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: a policy document that has no effect, and why."""

from __future__ import annotations

from meshkit.errors import PermanentError


class PolicyError(PermanentError, ValueError):
    """A document is refused as a whole.

    `where` names the field as a path into the document ("spec.ingress[0].toPorts[1].ports[0].port"), `what` says
    what is wrong with it and `fix` what to write instead.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{where}: {what}; {fix}")
        self.what, self.where, self.fix = what, where, fix
