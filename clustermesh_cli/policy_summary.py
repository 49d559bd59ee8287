# SPDX-License-Identifier: Apache-2.0
"""What becomes of some policies, and why: what `clustermesh policy lint --summary` ends with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from meshpolicy.context import PolicyContext
from meshpolicy.documents import Document, load_documents
from meshpolicy.errors import NotAPolicyError, PolicyError

PARTLY, REFUSED = "partly", "refused"
_PLACE: Final = re.compile(r"^[\w.\[\]]+: ")
"""The path into a document that a problem begins with."""
_QUOTED: Final = re.compile(r"'[^']*'|\{[^}]*\}")
"""What a document says, quoted."""


class PolicyCounts(NamedTuple):
    """Documents by what becomes of them. Groups of addresses count as policies.

    `remarked` of those enforced as written have effects that are worth a warning.
    """

    enforced: int = 0
    partly: int = 0
    refused: int = 0
    others: int = 0
    remarked: int = 0

    def __str__(self) -> str:
        policies = self.enforced + self.partly + self.refused
        remarked = f" ({self.remarked} with a warning)" if self.remarked else ""
        return (
            f"{policies} polic{'y' if policies == 1 else 'ies'}: {self.enforced} enforced as written{remarked}, "
            f"{self.partly} in part, {self.refused} refused; {self.others} other document{'' if self.others == 1 else 's'}"
        )


class SummaryReason(NamedTuple):
    """Why some policies are enforced in part, or refused (`outcome`). A policy may have several."""

    outcome: str
    reason: str
    policies: int


class Summary(NamedTuple):
    """What becomes of all policies, and the reasons, those of most policies first."""

    counts: PolicyCounts
    reasons: tuple[SummaryReason, ...]


def summarise(documents: Iterable[Document], context: PolicyContext) -> Summary:
    """What becomes of each document of the texts. A text that cannot be read at all is one that is refused."""
    counts, reasons = Counter[str](), Counter[tuple[str, str]]()
    for item in load_documents(documents, context):
        if isinstance(item, NotAPolicyError):
            counts["others"] += 1
        elif isinstance(item, PolicyError):
            counts[REFUSED] += 1
            reasons[REFUSED, _of_error(item)] += 1
        elif item.problems:
            counts[PARTLY] += 1
            reasons.update({(PARTLY, _of_problem(text)) for text in item.problems})
        else:
            counts["enforced"] += 1
            counts["remarked"] += bool(getattr(item, "warnings", ()))
    ordered = sorted(reasons.items(), key=lambda found: (found[0][0], -found[1], found[0][1]))
    return Summary(PolicyCounts(**counts), tuple(SummaryReason(*key, number) for key, number in ordered))


def _of_error(error: PolicyError) -> str:
    """The field without its place, and what is wrong with it, without what it holds."""
    field = re.sub(r"\[\d+\]", "", error.where).rpartition(".")[2]
    return f"{field}: {_QUOTED.sub('…', error.what)}"


def _of_problem(text: str) -> str:
    """The first half of the sentence: the second says what it does to this policy."""
    return _QUOTED.sub("…", _PLACE.sub("", text).partition(";")[0])
