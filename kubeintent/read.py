# SPDX-License-Identifier: Apache-2.0
"""What reading an object gives: its row, and what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

Obj: TypeAlias = dict[str, Any]
"""A JSON object as decoded: nothing is known of what it holds."""

MAX_PROBLEMS: Final = 16


class UnreadableError(ValueError):
    """The object has no name, or no namespace where its kind has one: nothing can be said about it."""


class Read(NamedTuple, Generic[T]):
    """`row` is None if the object counts as absent. `problems` are sentences for its owner, `uid` names it in an Event."""

    row: T | None
    problems: tuple[str, ...] = ()
    uid: str = ""


class Name(NamedTuple):
    """Which object this is; `namespace` is empty where its kind has none."""

    namespace: str
    name: str
    uid: str


def name_of(obj: Obj, *, namespaced: bool = True) -> Name:
    """The object's name. Raises: UnreadableError."""
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        raise UnreadableError("the object has no metadata")
    name, namespace, uid = meta.get("name"), meta.get("namespace"), meta.get("uid")
    if not isinstance(name, str) or not name:
        raise UnreadableError("the object has no name")
    if not namespaced:
        namespace = ""
    elif not isinstance(namespace, str) or not namespace:
        raise UnreadableError(f"{name[:64]} has no namespace")
    return Name(namespace, name, uid if isinstance(uid, str) else "")


def bounded(problems: Sequence[str]) -> tuple[str, ...]:
    """Each problem once, in order; of very many the first ones and how many more there are."""
    if not problems:
        return ()
    found = tuple(dict.fromkeys(problems))
    if len(found) <= MAX_PROBLEMS:
        return found
    return (*found[: MAX_PROBLEMS - 1], f"{len(found) - MAX_PROBLEMS + 1} more values were left out")
