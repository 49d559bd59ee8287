# SPDX-License-Identifier: Apache-2.0
"""Flows of requests that the node's proxy saw: one for what was asked, one for the answer. Pure.

Source: Hubble's records of layer 7. A request that policy refuses was dropped, and its answer, 403, is the proxy's own. Both
ends are those whom the addresses belong to now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.observe.sides import Directory
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from flows.summary import summarise
from flows.words import ACCESS_LOG

_REFUSED: Final = "rbac_access_denied"
_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_LONGEST: Final = 4096
"""Characters of a path that a flow shows."""


class RequestHead:
    """A flow without its ends, encoded; of one flow only."""

    __slots__ = ("flow",)

    def __init__(self, flow: pb.Flow) -> None:
        self.flow = flow.SerializeToString()


class RequestFlows:
    """`uuid` and `node_name` are those of the other flows of the node."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def make(self, record: Mapping[str, Any]) -> tuple[FlowEntry, FlowEntry]:
        """The request and the answer that a line of the proxy's log tells of. Raises: KeyError, ValueError, TypeError."""
        self._directory.refresh()
        client, client_port = place_of(record["source"])
        server, server_port = place_of(record["destination"])
        began_ns, duration_ms = int(float(record["start"]) * _NS), int(record["duration_ms"] or 0)
        is_refused = str(record["details"] or "").startswith(_REFUSED)
        direction = pb.INGRESS if record["direction"] == "ingress" else pb.EGRESS
        host = record["host"] or server
        http = pb.HTTP(
            method=str(record["method"] or ""),
            url=f"{record['scheme'] or 'http'}://{host}{record['path'] or ''}"[:_LONGEST],
            protocol=str(record["protocol"] or ""),
        )
        if record["request_id"]:
            http.headers.add(key="X-Request-Id", value=str(record["request_id"]))
        for name, action in sorted(dict(record.get("mismatches") or {}).items()):
            http.headers.add(key="Mismatch", value=f"{action} {name}")

        def flow(kind: pb.L7FlowType.ValueType, verdict: pb.Verdict.ValueType) -> pb.Flow:
            made = pb.Flow(verdict=verdict, Type=pb.L7, traffic_direction=direction)
            made.event_type.type = ACCESS_LOG
            made.l7.type = kind
            made.l7.http.CopyFrom(http)
            made.is_reply.value = made.reply = kind == pb.RESPONSE
            made.proxy_port = int(record["port"])
            ports = (server_port, client_port) if kind == pb.RESPONSE else (client_port, server_port)
            made.l4.TCP.source_port, made.l4.TCP.destination_port = ports
            return made

        asked = flow(pb.REQUEST, pb.DROPPED if is_refused else pb.FORWARDED)
        answered = flow(pb.RESPONSE, pb.FORWARDED)
        answered.l7.http.code = int(record["code"] or 0)
        answered.l7.latency_ns = duration_ms * _NS_PER_MS
        for made in (asked, answered):
            made.Summary = summarise(made)
        there, back = self._directory.between(client, server), self._directory.between(server, client)
        return (
            FlowEntry(began_ns, there, RequestHead(asked), b""),
            FlowEntry(began_ns + duration_ms * _NS_PER_MS, back, RequestHead(answered), b""),
        )


def with_requests(
    decode: Callable[[FlowEntry, int], pb.Flow], finish: Callable[[pb.Flow, FlowEntry, int], pb.Flow]
) -> Any:
    """How entries of a ring that has both kinds are decoded; `finish` adds the ends."""

    def decode_any(entry: FlowEntry, number: int) -> pb.Flow:
        if isinstance(entry.head, RequestHead):
            return finish(pb.Flow.FromString(entry.head.flow), entry, number)
        return decode(entry, number)

    return decode_any


def place_of(text: object) -> tuple[str, int]:
    """Address and port as Envoy writes an end of a connection. Raises: ValueError."""
    address, _, port = str(text).rpartition(":")
    return address.strip("[]"), int(port)
