# SPDX-License-Identifier: Apache-2.0
"""`protocols` of a ClusterNetworkPolicy rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshpolicy.decode import DocumentNode
from meshpolicy.port import MAXIMUM_PORT, PORT_PROTOCOLS, PROTOCOL_NUMBERS, PortSpec

_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_NAMED: Final = "destinationNamedPort"
_FIELDS: Final = frozenset({*_PROTOCOLS, _NAMED})
_PROTOCOL_FIELDS: Final = frozenset({"destinationPort"})
_PORT_FIELDS: Final = frozenset({"number", "range"})
_RANGE_FIELDS: Final = frozenset({"start", "end"})


def parse_protocols(nodes: Iterable[DocumentNode]) -> tuple[PortSpec, ...]:
    """The ports that the entries mean. Raises PolicyError."""
    return tuple(spec for node in nodes for spec in _parse_protocol(node))


def _parse_protocol(node: DocumentNode) -> tuple[PortSpec, ...]:
    given = sorted(name for name, value in node.only(_FIELDS).mapping().items() if value is not None)
    if len(given) != 1:
        node.fail(f"{' and '.join(given) or 'no protocol'} given", f"write exactly one of {', '.join(sorted(_FIELDS))}")
    field = node.get(given[0])
    assert field is not None
    if given[0] == _NAMED:
        name = field.text().lower()
        if not name:
            field.fail("an empty port name", "write the name of a container port")
        return tuple(PortSpec(protocol, name=name) for protocol in PORT_PROTOCOLS)
    port = field.only(_PROTOCOL_FIELDS).get("destinationPort")
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
