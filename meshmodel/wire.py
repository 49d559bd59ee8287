# SPDX-License-Identifier: Apache-2.0
"""What all JSON records have in common: the size cap, the two ways of being no record, bytes like Go's encoder.

Records are read as Go's encoding/json reads them, which decides what a peer may write: names of fields in any case,
null for "not given", unknown fields, text that is not UTF-8. Nearly every record is spelled as Cilium spells it and
takes the fast way; what the fast way cannot read is read again slowly, if it is small.
"""

from __future__ import annotations

import json
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect

from meshmodel.errors import RecordError

MAXIMUM_BYTES: Final = 16 * 1024 * 1024
# A text that needs the slow way costs ten times the time and memory: only records of common size get it.
MAXIMUM_SLOW_BYTES: Final = 256 * 1024
# Empty objects and tiny members cost thirty times their text in memory. These are three times what a service of 60,000
# IPv6 backends has; only texts beyond the first size are counted at all.
_COUNTED_BYTES: Final = 1024 * 1024
_MAXIMUM_OBJECTS: Final = 360_000
_MAXIMUM_COLONS: Final = 2_000_000
T = TypeVar("T", bound=msgspec.Struct)

_encoder: Final = msgspec.json.Encoder(order="deterministic")
_names: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
# Go escapes these in strings, so that JSON can stand inside HTML; outside of strings they do not occur in JSON.
_GO_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def encode_json(value: Any) -> bytes:
    """Deterministic bytes, equal to what Go writes for the same value: sorted map keys, no blanks, its escapes."""
    data = _encoder.encode(value)
    for plain, escaped in _GO_ESCAPES:
        if plain in data:
            data = data.replace(plain, escaped)
    return data


class JsonReader(Generic[T]):
    """Reads one kind of JSON record.

    The structure and all inside it must forbid unknown fields: an unknown name may be a known one in another case.
    """

    def __init__(self, kind: type[T], maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._kind, self._maximum_bytes = kind, maximum_bytes
        self._info = inspect.type_info(kind)
        self._exact = msgspec.json.Decoder(kind)
        # the same, for records of newer writers: what their top level has more is left out without the slow way
        newer = msgspec.defstruct(kind.__name__, [], bases=(kind,), forbid_unknown_fields=False)
        self._newer: msgspec.json.Decoder[T] = msgspec.json.Decoder(newer)
        self._folded = {name.casefold() for name in kind.__struct_encode_fields__}

    def read(self, key: str, value: bytes) -> T:
        """The record. Raises: RecordError: too-large, bad-field (JSON of another shape), bad-json (no JSON at all)."""
        if len(value) > self._maximum_bytes:
            raise RecordError(key, "too-large", f"{len(value)} bytes, {self._maximum_bytes} are accepted")
        if len(value) > _COUNTED_BYTES and (
            value.count(b"{") > _MAXIMUM_OBJECTS or value.count(b":") > _MAXIMUM_COLONS
        ):
            raise RecordError(key, "too-large", "too many members")
        try:
            return self._read_fast(value)
        except msgspec.ValidationError as exc:
            reason, detail = "bad-field", str(exc)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            reason, detail = "bad-json", str(exc)
        except RecursionError:
            raise RecordError(key, "bad-json", "nested too deeply") from None
        if len(value) > MAXIMUM_SLOW_BYTES:
            raise RecordError(key, reason, detail)
        return self._read_slowly(key, value, detail)

    def _read_fast(self, value: bytes) -> T:
        try:
            return self._exact.decode(value)
        except msgspec.ValidationError:
            names = _names.decode(value).keys() - set(self._kind.__struct_encode_fields__)
            if not names or any(name.casefold() in self._folded for name in names):
                raise
            return self._newer.decode(value)

    def _read_slowly(self, key: str, value: bytes, detail: str) -> T:
        try:
            found = _loads(value.decode("utf-8", "replace"))
            return msgspec.convert(_as_go_reads(found, self._info), self._kind)
        except msgspec.ValidationError as exc:
            raise RecordError(key, "bad-field", str(exc)) from None
        except ValueError:
            raise RecordError(key, "bad-json", detail) from None
        except RecursionError:
            raise RecordError(key, "bad-json", "nested too deeply") from None


class _Members(list[tuple[str, Any]]):
    """An object's members in the order of the text: of equal ones the last counts."""


def _as_go_reads(found: Any, kind: inspect.Type) -> Any:
    """The value with every member under the name its structure has, without nulls; other shapes stay as they are."""
    kind = _fitting(found, kind)
    if isinstance(found, str):
        return found if found.isascii() else found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(found, _Members):
        if isinstance(kind, inspect.StructType):
            fields = {field.encode_name.casefold(): field for field in kind.fields}
            fields |= {field.encode_name: field for field in kind.fields}
            known = [(fields.get(name) or fields.get(name.casefold()), member) for name, member in found]
            return {
                field.encode_name: _as_go_reads(member, field.type)
                for field, member in known
                if field is not None and member is not None
            }
        value_kind = kind.value_type if isinstance(kind, inspect.DictType) else inspect.AnyType()
        return {_as_go_reads(name, inspect.AnyType()): _element(member, value_kind) for name, member in found}
    if isinstance(found, list):
        item_kind = kind.item_type if isinstance(kind, inspect.ListType) else inspect.AnyType()
        return [_element(item, item_kind) for item in found]
    return found


def _element(found: Any, kind: inspect.Type) -> Any:
    """A value of a map or list, where null stands for the empty value of its kind."""
    if found is not None:
        return _as_go_reads(found, kind)
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if any(isinstance(option, inspect.NoneType) for option in options):
        return None
    return "" if isinstance(kind, inspect.StrType) else {} if isinstance(kind, inspect.StructType) else None


def _fitting(found: Any, kind: inspect.Type) -> inspect.Type:
    """The member of a union that has the value's shape."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    wanted: tuple[type[inspect.Type], ...] = (inspect.StrType, inspect.IntType, inspect.BoolType)
    if isinstance(found, _Members):
        wanted = (inspect.StructType, inspect.DictType)
    elif isinstance(found, list):
        wanted = (inspect.ListType,)
    return next((option for option in kind.types if isinstance(option, wanted)), kind)


def _loads(text: str) -> Any:
    # the one parser that tells members of an object apart that have the same name in another case
    return json.loads(text, object_pairs_hook=_Members, parse_constant=_refuse)  # noqa: TID251


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
