# SPDX-License-Identifier: Apache-2.0
"""Flows of connections by TLS that the node's proxy judged by the name of their server: one for each. Pure.

Hubble has no message for them: the flow is one of layer 7 without any, and its summary says the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.observe.requests import RequestHead, place_of
from agent.observe.sides import Directory
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from flows.words import ACCESS_LOG

_DENIED: Final = "denied"
_ENDED: Final = "TcpConnectionEnd"
_NS: Final = 1_000_000_000
_LONGEST: Final = 255


class ServerNameFlows:
    """Who the ends are, `directory` says."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def make(self, record: Mapping[str, Any]) -> Sequence[FlowEntry]:
        """What a line of the proxy's log tells of; an allowed connection when it begins.

        Raises: KeyError, ValueError, TypeError.
        """
        is_denied = record["verdict"] == _DENIED
        if record["event"] == _ENDED and not is_denied:
            return ()
        self._directory.refresh()
        client, client_port = place_of(record["source"])
        server, server_port = place_of(record["destination"])
        direction = pb.INGRESS if record["direction"] == "ingress" else pb.EGRESS
        made = pb.Flow(verdict=pb.DROPPED if is_denied else pb.FORWARDED, Type=pb.L7, traffic_direction=direction)
        if is_denied:
            made.drop_reason_desc = pb.POLICY_DENIED
        made.event_type.type = ACCESS_LOG
        made.l7.type = pb.REQUEST
        made.is_reply.value = False
        made.proxy_port = int(record["port"])
        made.l4.TCP.source_port, made.l4.TCP.destination_port = client_port, server_port
        name = record["server_name"]
        made.Summary = f"TLS {str(name)[:_LONGEST]}" if name else "no TLS server name"
        began_ns = int(float(record["start"]) * _NS)
        return (FlowEntry(began_ns, self._directory.between(client, server), RequestHead(made), b""),)
