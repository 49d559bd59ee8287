# SPDX-License-Identifier: Apache-2.0
"""Untrusted documents, read field by field; whatever is wrong is reported with the field's path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from difflib import get_close_matches
from typing import Final, NoReturn

from meshpolicy.errors import PolicyError

_ALIKE: Final = 0.8
"""How alike a misspelt name is at least: below it, denyIngress would be told to become ingress."""


class DocumentNode:
    """One value of a document and the path that leads to it."""

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: object, key: str | int, parent: DocumentNode | None = None) -> None:
        self.value, self._key, self._parent = value, key, parent

    @property
    def path(self) -> str:
        """How people find the value in the document: spec.ingress[0].toPorts."""
        parent = self._parent.path if self._parent is not None else ""
        if isinstance(self._key, int):
            return f"{parent}[{self._key}]"
        return f"{parent}.{self._key}" if parent and self._key else parent or self._key

    @property
    def name(self) -> str:
        """The field that the value is in; its number in a list."""
        return str(self._key)

    def child(self, key: str, value: object = None) -> DocumentNode:
        """A field of this value, for reports about it."""
        return DocumentNode(value, key, self)

    def fail(self, what: str, fix: str) -> NoReturn:
        """Refuse the document because of this value."""
        raise PolicyError(what, where=self.path or "document", fix=fix)

    def get(self, key: str) -> DocumentNode | None:
        """The field, or None if it is absent or null."""
        fields = self.value if isinstance(self.value, dict) else self.mapping()
        value = fields.get(key)
        return None if value is None else DocumentNode(value, key, self)

    def mapping(self) -> Mapping[str, object]:
        """The value as a map; null is an empty one."""
        if isinstance(self.value, dict):
            return self.value
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            self.fail(f"a map is expected, not {_shape(self.value)}", "indent its fields below it")
        return self.value

    def items(self) -> Iterator[DocumentNode]:
        """The entries of a list. Raises: PolicyError for one that is null: read as a map it would mean everybody."""
        if not isinstance(self.value, list | tuple):
            self.fail(f"a list is expected, not {_shape(self.value)}", "begin each entry with a dash")
        for index, value in enumerate(self.value):
            item = DocumentNode(value, index, self)
            if value is None:
                item.fail("an entry without a value", "write after the dash what is meant")
            yield item

    def text(self) -> str:
        """The value as a string."""
        if not isinstance(self.value, str):
            self.fail(f"a string is expected, not {_shape(self.value)}", "put the value in quotes as it stands")
        return self.value

    def flag(self) -> bool:
        """The value as a boolean."""
        if not isinstance(self.value, bool):
            self.fail(f"true or false is expected, not {_shape(self.value)}", "write true or false without quotes")
        return self.value

    def number(self) -> int:
        """The value as an integer."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail(f"a number is expected, not {_shape(self.value)}", "write it without quotes")
        return self.value

    def list_of(self, key: str) -> tuple[DocumentNode, ...]:
        """The entries of a list field; absent is the same as empty."""
        field = self.get(key)
        return () if field is None else tuple(field.items())

    def text_of(self, key: str) -> str:
        """A string field; absent is empty."""
        field = self.get(key)
        return "" if field is None else field.text()

    def texts_of(self, key: str) -> tuple[str, ...]:
        """A field that lists strings."""
        return tuple(item.text() for item in self.list_of(key))

    def only(self, known: Set[str]) -> DocumentNode:
        """This value, whose fields are all among `known`.

        Raises: PolicyError naming the first other field. A misspelt field left out would mean "everybody" or "every port".
        """
        fields = self.mapping()
        if not fields.keys() <= known:
            name = min(str(key) for key in fields if key not in known)
            alike = _most_alike(name, known)
            fix = f"write {alike}" if alike else f"write what is meant by one of {', '.join(sorted(known))}"
            self.child(name).fail("unknown field", fix)
        return self


def _most_alike(name: str, known: Set[str]) -> str:
    """The known name that is misspelt; empty if none is so alike that another meaning is out of question."""
    same = (key for key in sorted(known) if key.lower() == name.lower())
    return next(same, "") or next(iter(get_close_matches(name[:64], sorted(known), 1, _ALIKE)), "")


def _shape(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "a map"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"
