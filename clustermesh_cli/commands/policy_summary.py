# SPDX-License-Identifier: Apache-2.0
"""How many of some policies are enforced as they are written: the line that `clustermesh policy lint --summary` ends with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from meshpolicy.context import PolicyContext
from meshpolicy.documents import Document, load_documents
from meshpolicy.errors import NotAPolicyError, PolicyError


class PolicyCounts(NamedTuple):
    """Documents by what becomes of them. Groups of addresses count as policies."""

    enforced: int = 0
    partly: int = 0
    refused: int = 0
    others: int = 0

    def __str__(self) -> str:
        policies = self.enforced + self.partly + self.refused
        return (
            f"{policies} polic{'y' if policies == 1 else 'ies'}: {self.enforced} enforced as written, "
            f"{self.partly} in part, {self.refused} refused; {self.others} other document{'' if self.others == 1 else 's'}"
        )


def count_policies(documents: Iterable[Document], context: PolicyContext) -> PolicyCounts:
    """What becomes of each document of the texts. A text that cannot be read at all is one that is refused."""
    enforced = partly = refused = others = 0
    for item in load_documents(documents, context):
        if isinstance(item, NotAPolicyError):
            others += 1
        elif isinstance(item, PolicyError):
            refused += 1
        elif item.problems:
            partly += 1
        else:
            enforced += 1
    return PolicyCounts(enforced, partly, refused, others)
