# SPDX-License-Identifier: Apache-2.0
"""`protocols` of a ClusterNetworkPolicy rule."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final, NamedTuple

from meshpolicy.decode import DocumentNode
from meshpolicy.errors import PolicyError
from meshpolicy.port import MAXIMUM_PORT, PORT_PROTOCOLS, PROTOCOL_NUMBERS, PortSpec

_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_NAMED: Final = "destinationNamedPort"
_FIELDS: Final = frozenset({*_PROTOCOLS, _NAMED})
_PROTOCOL_FIELDS: Final = frozenset({"destinationPort"})
_PORT_FIELDS: Final = frozenset({"number", "range"})
_RANGE_FIELDS: Final = frozenset({"start", "end"})


class Protocols(NamedTuple):
    """The ports that entries mean; of entries that may mean others, a sentence each."""

    ports: tuple[PortSpec, ...]
    unknown: tuple[str, ...]


def parse_protocols(nodes: Iterable[DocumentNode]) -> Protocols:
    """What the entries mean. Raises PolicyError."""
    ports: list[PortSpec] = []
    unknown: list[str] = []
    for node in nodes:
        found = _parse_protocol(node)
        if isinstance(found, str):
            unknown.append(found)
        else:
            ports += found
    return Protocols(tuple(ports), tuple(unknown))


def unknown_field(node: DocumentNode, known: Set[str]) -> str:
    """Which field of the value is not known, and what was meant perhaps; empty if all are."""
    try:
        node.only(known)
    except PolicyError as exc:
        return f"{exc.where}: {exc.what} ({exc.fix})"
    return ""


def _parse_protocol(node: DocumentNode) -> tuple[PortSpec, ...] | str:
    """The ports, or why they are not known."""
    given = sorted(name for name, value in node.mapping().items() if value is not None)
    if not _FIELDS & set(given):
        return unknown_field(node, _FIELDS) or f"{node.path}: names no protocol"
    if len(given) != 1:
        node.only(_FIELDS)
        node.fail(f"{' and '.join(given)} given", f"write exactly one of {', '.join(sorted(_FIELDS))}")
    field = node.get(given[0])
    assert field is not None
    if given[0] == _NAMED:
        name = field.text().lower()
        if not name:
            field.fail("an empty port name", "write the name of a container port")
        return tuple(PortSpec(protocol, name=name) for protocol in PORT_PROTOCOLS)
    if text := unknown_field(field, _PROTOCOL_FIELDS):
        return text
    port = field.get("destinationPort")
    if port is None:
        field.fail("destinationPort is missing", "write destinationPort with number or range")
    return (PortSpec(PROTOCOL_NUMBERS[given[0].upper()], *_parse_port(port)),)


def _parse_port(node: DocumentNode) -> tuple[int, int]:
    number, ports = node.only(_PORT_FIELDS).get("number"), node.get("range")
    if (number is None) == (ports is None):
        node.fail("not exactly one of number and range", "write number, or range with start and end")
    if number is not None:
        first = last = _parse_number(number)
        return first, last
    assert ports is not None
    start, end = ports.only(_RANGE_FIELDS).get("start"), ports.get("end")
    if start is None or end is None:
        ports.fail("start or end is missing", "write both")
    first, last = _parse_number(start), _parse_number(end)
    if first >= last:
        ports.fail(f"{first} is not below {last}", "write start below end, or number")
    return first, last


def _parse_number(node: DocumentNode) -> int:
    if not 1 <= node.number() <= MAXIMUM_PORT:
        node.fail(f"{node.number()} is not a port", f"write a number from 1 to {MAXIMUM_PORT}")
    return node.number()
