# SPDX-License-Identifier: Apache-2.0
"""Selectors of labels as `--label` takes them: Kubernetes' syntax, with the source of a label before its key. Pure.

`k8s:app in (a,b)` looks at labels of Kubernetes only; a key without a source, or with `any:`, at those of every source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from flows.errors import FilterError

Labels = Mapping[str, Sequence[tuple[str, str]]]
"""By key: source and value of each label that has it."""

_KEY: Final = r"(?:(?P<source>[A-Za-z0-9._-]+):)?(?P<key>[A-Za-z0-9_./-]+)"
_PART: Final = re.compile(
    rf"\s*(?P<absent>!)?\s*{_KEY}\s*"
    r"(?:(?P<set>notin|in)\s*\((?P<values>[^()]*)\)|(?P<operator>==|=|!=|>|<)\s*(?P<value>[^,()=!<>]*?))?\s*(?:,|$)"
)
_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?|")

Selector = Callable[[Labels], bool]


def parse_labels(labels: Iterable[str]) -> Labels:
    """Labels as flows have them: `k8s:app=web`, `reserved:world`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for label in labels:
        name, _, value = label.partition("=")
        source, colon, key = name.partition(":")
        found.setdefault(key if colon else source, []).append((source if colon else "", value))
    return found


def parse_selector(text: str, field: str) -> Selector:
    """What the text selects; every requirement must hold. Raises: FilterError."""
    requirements: list[Selector] = []
    position, text = 0, text.strip()
    if not text:
        raise FilterError(field, "an empty selector selects nothing; leave it out to select everything")
    while position < len(text):
        found = _PART.match(text, position)
        if found is None:
            raise FilterError(field, f"{text[position:100]!r} is no requirement such as app=web, app in (a,b) or !app")
        requirements.append(_requirement(found, field))
        position = found.end()
        if text[position - 1] == "," and position == len(text):
            raise FilterError(field, f"{text!r} ends with a comma")
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _requirement(found: re.Match[str], field: str) -> Selector:
    source, key = found["source"], found["key"]
    wanted = None if source in (None, "any") else source

    def values(labels: Labels) -> list[str]:
        return [value for origin, value in labels.get(key, ()) if wanted is None or origin == wanted]

    if found["set"] is not None:
        members = {_value(part.strip(), field) for part in found["values"].split(",")}
        if found["set"] == "in":
            return lambda labels: any(value in members for value in values(labels))
        return lambda labels: not any(value in members for value in values(labels))
    if found["operator"] is None:
        if found["absent"]:
            return lambda labels: not values(labels)
        return lambda labels: bool(values(labels))
    if found["absent"]:
        raise FilterError(field, f"!{key} takes no value")
    return _compared(found["operator"], found["value"], values, field)


def _compared(operator: str, text: str, values: Callable[[Labels], list[str]], field: str) -> Selector:
    if operator in "<>":
        if not text.lstrip("-").isdigit():
            raise FilterError(field, f"{operator} compares whole numbers, not {text!r}")
        limit, is_above = int(text), operator == ">"
        return lambda labels: any(_is_beyond(value, limit, is_above=is_above) for value in values(labels))
    wanted = _value(text, field)
    if operator == "!=":
        return lambda labels: wanted not in values(labels)
    return lambda labels: wanted in values(labels)


def _is_beyond(value: str, limit: int, *, is_above: bool) -> bool:
    return value.lstrip("-").isdigit() and (int(value) > limit if is_above else int(value) < limit)


def _value(text: str, field: str) -> str:
    if _VALUE.fullmatch(text) is None:
        raise FilterError(field, f"{text[:100]!r} is no value of a label")
    return text
