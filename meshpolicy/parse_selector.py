# SPDX-License-Identifier: Apache-2.0
"""Kubernetes label selectors, checked by Kubernetes' rules for keys and values."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from meshpolicy.decode import DocumentNode
from meshpolicy.selector import (
    ANY_SOURCE,
    LabelSelector,
    Operator,
    Requirement,
    equals,
    parse_key,
)

_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_DOMAIN: Final = 253
_LONGEST_VALUE: Final = 63
_LONGEST_KEY: Final = 512
"""A source, a domain and a name; nothing longer is asked for, so that nothing longer is remembered."""
_REMEMBERED: Final = 4096
_FIELDS: Final = frozenset({"matchLabels", "matchExpressions"})
_EXPRESSION_FIELDS: Final = frozenset({"key", "operator", "values"})
_VALUED: Final = (Operator.IN, Operator.NOT_IN)
_VALUED_FORM: Final = {Operator.EXISTS: Operator.IN, Operator.DOES_NOT_EXIST: Operator.NOT_IN}


def parse_selector(
    node: DocumentNode, default_source: str = ANY_SOURCE, *, but: tuple[str, str] | None = None
) -> LabelSelector:
    """Read {matchLabels, matchExpressions}; keys without a source get the default one.

    `but` names a source and key whose matchLabels entry is left out, because the caller sets it.
    """
    fields = node.only(_FIELDS).mapping()
    labels = node.get("matchLabels")
    if labels is not None and len(fields) == 1:
        known = _of_labels(tuple(labels.mapping().items()), default_source, but) if _is_plain(labels) else None
        if known is not None:
            return known
    requirements: list[Requirement] = []
    for key, value in (labels.mapping() if labels else {}).items():
        entry = node.child(f"matchLabels.{key}", value)
        if not isinstance(key, str):
            entry.fail(f"the key is no string but {key!r}", "put the key in quotes as it stands")
        text = entry.text()
        _check_key(entry, str(key))
        _check_value(entry, text)
        parsed = parse_key(str(key), default_source)
        if parsed != but:
            requirements.append(equals(*parsed, text))
    requirements.extend(_parse_expression(item, default_source) for item in node.list_of("matchExpressions"))
    return LabelSelector(tuple(requirements))


def _is_plain(labels: DocumentNode) -> bool:
    """Whether all keys and values are strings no longer than valid ones are: long ones must not be remembered."""
    return all(
        type(key) is str and len(key) <= _LONGEST_KEY and type(value) is str and len(value) <= _LONGEST_VALUE
        for key, value in labels.mapping().items()
    )


@lru_cache(maxsize=_REMEMBERED)
def _of_labels(
    labels: tuple[tuple[str, str], ...], default_source: str, but: tuple[str, str] | None
) -> LabelSelector | None:
    """The selector of labels alone, which policies repeat a lot; None if a label is not valid."""
    if not all(_is_key(key) and _is_value(value) for key, value in labels):
        return None
    parsed = ((parse_key(key, default_source), value) for key, value in labels)
    return LabelSelector(tuple(equals(*key, value) for key, value in parsed if key != but))


def _parse_expression(node: DocumentNode, default_source: str) -> Requirement:
    node.only(_EXPRESSION_FIELDS)
    key, word = node.text_of("key"), node.text_of("operator")
    _check_key(node.child("key", key), key)
    if word not in set(Operator):
        node.child("operator", word).fail(
            f"{word!r} is not a valid label selector operator", "write In, NotIn, Exists or DoesNotExist"
        )
    operator, values = Operator(word), node.list_of("values")
    if operator in _VALUED and not values:
        node.child("values").fail(f"{operator} needs values", "list at least one value")
    if operator not in _VALUED and values:
        node.child("values").fail(
            f"{operator} takes no values", f"write {_VALUED_FORM[operator]} if these values are meant"
        )
    texts = []
    for value in values:
        _check_value(value, value.text())
        texts.append(value.text())
    return Requirement(*parse_key(key, default_source), operator, tuple(sorted(set(texts))))


def _check_key(node: DocumentNode, text: str) -> None:
    if len(text) > _LONGEST_KEY or not _is_key(text):
        node.fail(
            f"{text!r} is not a label key",
            'write [source:][domain/]name, the name at most 63 of letters, digits, "-", "_" and "."',
        )


def _check_value(node: DocumentNode, text: str) -> None:
    if len(text) > _LONGEST_VALUE or not _is_value(text):
        node.fail(
            f"{text!r} is not a label value",
            'write at most 63 letters, digits, "-", "_" or ".", with a letter or digit at both ends',
        )


@lru_cache(maxsize=_REMEMBERED)
def _is_key(text: str) -> bool:
    _, key = parse_key(text)
    domain, slash, name = key.rpartition("/")
    if slash and (not _DOMAIN.fullmatch(domain) or len(domain) > _LONGEST_DOMAIN):
        return False
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=_REMEMBERED)
def _is_value(text: str) -> bool:
    return not text or _NAME.fullmatch(text) is not None
