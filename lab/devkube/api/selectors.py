# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors, parsed once and asked often. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lab.devkube.api.error import bad_request
from lab.devkube.api.objects import Obj, labels_of


class SelectorOperator(StrEnum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "!"


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    key: str
    operator: SelectorOperator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case SelectorOperator.IN:
                return labels.get(self.key) in self.values
            case SelectorOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case SelectorOperator.EXISTS:
                return self.key in labels
            case SelectorOperator.ABSENT:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    path: tuple[str, ...]
    value: str
    equal: bool

    def matches(self, obj: Obj) -> bool:
        return (_field_text(obj, self.path) == self.value) is self.equal


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; no requirements match everything."""

    labels: tuple[LabelRequirement, ...] = ()
    fields: tuple[FieldRequirement, ...] = ()

    def matches(self, obj: Obj) -> bool:
        if self.labels:
            labels = labels_of(obj)
            if not all(r.matches(labels) for r in self.labels):
                return False
        return all(r.matches(obj) for r in self.fields)


_TERM_SEPARATOR = re.compile(r",(?![^(]*\))")
_SET_TERM = re.compile(r"^(\S+)\s+(in|notin)\s*\((.*)\)$")
_EQUALITY_TERM = re.compile(r"^([^=!\s]+)\s*(==|=|!=)\s*(.*)$")


def parse_selector(labels: str = "", fields: str = "") -> Selector:
    """Parse what clients send as labelSelector and fieldSelector. Raises ApiError 400 for what is neither."""
    label_terms = (term.strip() for term in _TERM_SEPARATOR.split(labels))
    field_terms = (term.strip() for term in fields.split(","))
    return Selector(
        tuple(_label_requirement(term) for term in label_terms if term),
        tuple(_field_requirement(term) for term in field_terms if term),
    )


def _label_requirement(term: str) -> LabelRequirement:
    if found := _SET_TERM.match(term):
        values = frozenset(value.strip() for value in found[3].split(","))
        return LabelRequirement(found[1], SelectorOperator(found[2]), values)
    if found := _EQUALITY_TERM.match(term):
        operator = SelectorOperator.NOT_IN if found[2] == "!=" else SelectorOperator.IN
        return LabelRequirement(found[1], operator, frozenset({found[3].strip()}))
    if re.search(r"[\s=()]", term):
        raise bad_request(f'unable to parse requirement: "{term}"')
    if term.startswith("!"):
        return LabelRequirement(term[1:].strip(), SelectorOperator.ABSENT)
    return LabelRequirement(term, SelectorOperator.EXISTS)


def _field_requirement(term: str) -> FieldRequirement:
    found = re.match(r"^([^=!]+?)(==|=|!=)(.*)$", term)
    if not found:
        raise bad_request(f"invalid field selector: {term!r}; can't understand it")
    return FieldRequirement(tuple(found[1].strip().split(".")), found[3], found[2] != "!=")


def _field_text(obj: Obj, path: tuple[str, ...]) -> str:
    value: object = obj
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
