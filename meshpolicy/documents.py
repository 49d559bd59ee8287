# SPDX-License-Identifier: Apache-2.0
"""Policies as people keep them: YAML text with one or more documents, or maps that are read already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from meshkit import yamltext
from meshpolicy.context import PolicyContext
from meshpolicy.errors import PolicyError
from meshpolicy.parse import parse_policy
from meshpolicy.parse_cilium import parse_cidr_group
from meshpolicy.reference import PolicyKind
from meshpolicy.rule import CidrGroup, Policy

Document = str | Mapping[str, object]
_REMEMBERED: Final = 4096
_LONGEST_TITLE: Final = 160


def load_documents(documents: Iterable[Document], context: PolicyContext) -> Iterator[Policy | CidrGroup | PolicyError]:
    """Every document parsed, in order; one that is invalid as its error."""
    for document in documents:
        if isinstance(document, str):
            yield from _load_text(document, context)
        else:
            yield from (_load(item, context) for item in open_list(document))


def raw_documents(documents: Iterable[Document]) -> Iterator[Mapping[str, object]]:
    """Every document as it is written, those of lists too; without what is no document."""
    for document in documents:
        found = _read_text(document) if isinstance(document, str) else open_list(document)
        yield from (item for item in found if not isinstance(item, PolicyError))


@lru_cache(maxsize=_REMEMBERED)
def _load_text(text: str, context: PolicyContext) -> tuple[Policy | CidrGroup | PolicyError, ...]:
    return tuple(_load(item, context) for item in _read_text(text))


def _load(document: Mapping[str, object] | PolicyError, context: PolicyContext) -> Policy | CidrGroup | PolicyError:
    if isinstance(document, PolicyError):
        return document
    try:
        if document.get("kind") == PolicyKind.CIDR_GROUP:
            return parse_cidr_group(document)
        return parse_policy(document, context)
    except PolicyError as exc:
        exc.document = title_of(document)
        return exc


def title_of(document: Mapping[str, object]) -> str:
    """How people name the document: kind namespace/name, as far as it says."""
    meta = document.get("metadata")
    names = [meta.get(key) for key in ("namespace", "name")] if isinstance(meta, Mapping) else []
    name = "/".join(part for part in names if isinstance(part, str) and part)
    kind = document.get("kind")
    return f"{kind if isinstance(kind, str) and kind else 'document'} {name or 'without a name'}"[:_LONGEST_TITLE]


def _read_text(text: str) -> Iterator[Mapping[str, object] | PolicyError]:
    try:
        for item in yamltext.load_documents(text):
            if isinstance(item, Mapping):
                yield from open_list(item)
            elif isinstance(item, list):
                fix = "write rules below specs of a CiliumNetworkPolicy, and objects as documents with --- between them"
                yield PolicyError("a list, not an object", where="document", fix=fix)
            elif item is not None:
                yield PolicyError("not a map", where="document", fix="begin with apiVersion, kind, metadata and spec")
    except yamltext.YamlTextError as exc:
        yield PolicyError(f"not YAML ({exc})", where="document", fix="check indentation, quotes and repeated keys")


def open_list(document: Mapping[str, object]) -> Iterator[Mapping[str, object] | PolicyError]:
    """The objects of a list, also of lists in it, or the document itself. Objects of a typed list may leave their kind out."""
    kind = document.get("kind")
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in document):
        yield document
        return
    items = document["items"]
    typed = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")} if kind != "List" else {}
    for index, item in enumerate(items if isinstance(items, list) else [items]):
        if isinstance(item, Mapping) and isinstance(items, list):
            yield from open_list(item if "kind" in item else {**typed, **item})
        elif items is not None:
            where = f"items[{index}]" if isinstance(items, list) else "items"
            yield PolicyError(
                "no object", where=where, fix="write a dash and below it apiVersion, kind, metadata and spec"
            )
