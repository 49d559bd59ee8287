# SPDX-License-Identifier: Apache-2.0
"""The errors of this package: a document that is refused, and why; a policy that the engine fails on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from meshkit.errors import PermanentError
from meshpolicy.reference import PolicyRef

_T = TypeVar("_T")
_LONGEST = 256
"""Characters of each part of a message: a document decides what is quoted, not how much of it is kept."""


class PolicyError(PermanentError, ValueError):
    """A document is refused as a whole.

    `where` names the field as a path into the document ("spec.ingress[0].toPorts[1].ports[0].port"), `what` says
    what is wrong with it and `fix` what to write instead. `document` names the document, where a reader of several set it.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        what, where, fix = _cut(what), _cut(where), _cut(fix)
        super().__init__(f"{where}: {what}; {fix}")
        self.what, self.where, self.fix = what, where, fix
        self.document = ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def refusing_faults(parse: Callable[[], _T]) -> _T:
    """What `parse` returns. Raises: PolicyError, also where the parser itself fails on a document.

    Whoever may write policies must not be able to stop the program that reads those of everybody.
    """
    try:
        return parse()
    except PolicyError:
        raise
    except Exception as exc:
        fix = "look for values of an unusual size or kind"
        raise PolicyError(f"cannot be read: {exc!r}", where="document", fix=fix) from exc


class NotAPolicyError(PolicyError):
    """The document is of a kind that is no policy."""


class TooManyEntriesError(PermanentError):
    """The rules of one endpoint, each for each of its peers and ports, make more entries than any map could hold."""

    def __init__(self, entries: int, most: int) -> None:
        super().__init__(f"its rules make {entries} entries, and {most} is the most: name fewer ranges or fewer ports")


class EngineFaultError(PermanentError):
    """The engine raised what no document may cause. `policy` names the document it happened with."""

    def __init__(self, policy: PolicyRef) -> None:
        super().__init__(f"{policy}: the policy engine failed on it")
        self.policy = policy
