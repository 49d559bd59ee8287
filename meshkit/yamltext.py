# SPDX-License-Identifier: Apache-2.0
"""YAML from anybody, read as kubectl reads it: bounded in size, depth and what aliases expand to; no key given twice.

Nesting is counted on the parser's events, before anything recurses: libyaml's composer overruns the stack on 100,000
open brackets. An alias costs nothing while reading and everything when the value is walked, so that what a document
would be without aliases is counted before it is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    _BaseLoader = yaml.SafeLoader
else:
    _BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAXIMUM_BYTES: Final = 3 << 20
"""What a Kubernetes API server takes as one request."""
MAXIMUM_DEPTH: Final = 100
MAXIMUM_NODES: Final = 200_000
_REASON_LENGTH: Final = 256


class YamlTextError(ValueError):
    """The text is refused; the message says where and why, in at most some hundred characters."""


class _Loader(_BaseLoader):
    """kubectl's YAML: `y` and `n` are booleans too, and a key may stand in a map once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """The map of a node. Raises: YamlTextError for a key that stands there twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise YamlTextError(f"line {key.start_mark.line + 1}: {key.value[:64]!r} is given twice in one map")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Loader.bool_values = {**_Loader.bool_values, "y": True, "n": False}


def load_documents(text: str) -> Iterator[object]:
    """The documents of the text, in order. A text that is one JSON value is read as such. Raises: YamlTextError."""
    if len(text) > MAXIMUM_BYTES:
        raise YamlTextError(f"{len(text)} characters; at most {MAXIMUM_BYTES} are read")
    if text.startswith("{") and _brackets(text) <= MAXIMUM_DEPTH:
        try:
            found = json.loads(  # noqa: TID251 - orjson does not tell of a key that is given twice
                text, object_pairs_hook=_unique, parse_constant=_refuse_constant
            )
        except ValueError:
            pass  # as YAML it may be right, or the error says where it is not
        else:
            _check_characters(text, found)
            yield found
            return
    try:
        if not _is_shallow(text):
            _check_depth(text)
        is_small = "*" not in text and 2 * len(text) <= MAXIMUM_NODES
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                assert node is not None
                if not is_small:
                    _check_size(node)
                yield loader.construct_document(node)
        finally:
            loader.dispose()
    except YamlTextError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        raise YamlTextError(" ".join(str(exc).split())[:_REASON_LENGTH]) from exc


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The map of a JSON object. Raises: ValueError when a key stands there twice, which the YAML reader then locates."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def _check_characters(text: str, found: object) -> None:
    """Raises: YamlTextError for half of a surrogate pair, which JSON may spell and no text can hold."""
    if "\\u" not in text:
        return
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise YamlTextError("half of a surrogate pair is no character") from exc


def _refuse_constant(text: str) -> object:
    """NaN and infinities are no JSON."""
    raise ValueError(text)


def _brackets(text: str) -> int:
    return text.count("[") + text.count("{")


def _is_shallow(text: str) -> bool:
    """Whether no nesting in the text can be too deep, told without parsing.

    A block collection begins at a greater column than the one around it, or is a sequence at the column of its map; a flow
    collection has a bracket of its own, and may hold maps of one pair without any.
    """
    longest = max(map(len, text.splitlines()), default=0)
    return 2 * (_brackets(text) + longest) <= MAXIMUM_DEPTH


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAXIMUM_DEPTH and event.start_mark is not None:
                raise YamlTextError(f"line {event.start_mark.line + 1}: nested deeper than {MAXIMUM_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_size(root: yaml.Node) -> None:
    """Count the nodes of the document with every alias written out; each node is looked at once."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    pending: list[tuple[yaml.Node, bool]] = [(root, False)]
    while pending:
        node, are_children_done = pending.pop()
        if are_children_done:
            open_nodes.discard(id(node))
            sizes[id(node)] = total = 1 + sum(sizes[id(child)] for child in _children(node))
            if total > MAXIMUM_NODES:
                line = node.start_mark.line + 1
                raise YamlTextError(f"line {line}: more than {MAXIMUM_NODES} values with its aliases written out")
        elif id(node) in open_nodes:
            raise YamlTextError(f"line {node.start_mark.line + 1}: an alias that contains itself")
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            pending.append((node, True))
            pending.extend((child, False) for child in _children(node) if id(child) not in sizes)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
