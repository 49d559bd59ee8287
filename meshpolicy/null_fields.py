# SPDX-License-Identifier: Apache-2.0
"""Fields that are written without a value. The API server leaves them out, so that a selector means everybody. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from meshpolicy.decode import DocumentNode
from meshpolicy.documents import Document, raw_documents, title_of

_PARTS: Final = ("spec", "specs")
_DEEPEST: Final = 64
"""No field of a valid document is as deep."""


def null_fields(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    """The title of the document, and the path of the field in it, for each field without a value."""
    for document in raw_documents(documents):
        for part in _PARTS:
            value = document.get(part)
            if value is not None:
                for path in _paths(DocumentNode(value, part)):
                    yield title_of(document), path


def _paths(top: DocumentNode) -> Iterator[str]:
    waiting = [(top, 0)]
    while waiting:
        node, depth = waiting.pop()
        if node.value is None:
            yield node.path
        elif depth < _DEEPEST:
            waiting += [(child, depth + 1) for child in reversed(tuple(_children(node)))]


def _children(node: DocumentNode) -> Iterator[DocumentNode]:
    """The fields of a map; of a list the entries that have a value, since others are refused."""
    if isinstance(node.value, Mapping):
        for key, value in node.value.items():
            yield node.child(str(key), value)
    elif isinstance(node.value, list | tuple):
        for index, value in enumerate(node.value):
            if value is not None:
                yield DocumentNode(value, index, node)
