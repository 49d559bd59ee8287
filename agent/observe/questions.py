# SPDX-License-Identifier: Apache-2.0
"""Flows of DNS questions that the node's proxy saw: one for what was asked, one for the answer. Pure.

Source: Hubble's records of layer 7. A name that policy refuses was dropped, and nobody answered it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.observe.requests import RequestHead
from agent.observe.sides import Directory
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from flows.summary import summarise
from flows.words import ACCESS_LOG

_SOURCE: Final = "proxy"


class QuestionFlows:
    """`directory` knows whom addresses belong to now."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def make(self, record: Mapping[str, Any]) -> Sequence[FlowEntry]:
        """The question and, unless it was refused, the answer. Raises: KeyError, ValueError, TypeError."""
        self._directory.refresh()
        (client, client_port), (server, server_port) = record["client"], record["server"]
        is_refused = bool(record["refused"])

        def flow(kind: pb.L7FlowType.ValueType) -> pb.Flow:
            is_reply = kind == pb.RESPONSE
            made = pb.Flow(verdict=pb.DROPPED if is_refused else pb.FORWARDED, Type=pb.L7, traffic_direction=pb.EGRESS)
            made.event_type.type = ACCESS_LOG
            made.l7.type = kind
            made.l7.dns.query, made.l7.dns.observation_source = record["name"], _SOURCE
            made.l7.dns.qtypes.append(record["type"])
            made.is_reply.value = made.reply = is_reply
            made.proxy_port = record["port"]
            l4 = made.l4.TCP if record["protocol"] == "TCP" else made.l4.UDP
            l4.source_port, l4.destination_port = (server_port, client_port) if is_reply else (client_port, server_port)
            return made

        asked = flow(pb.REQUEST)
        asked.Summary = summarise(asked)
        found = [FlowEntry(record["began_ns"], self._directory.between(client, server), RequestHead(asked), b"")]
        if not is_refused:
            answered = flow(pb.RESPONSE)
            dns = answered.l7.dns
            dns.ips.extend(record["addresses"])
            dns.cnames.extend(record["aliases"])
            dns.rrtypes.extend(record["types"])
            dns.ttl, dns.rcode = record["ttl_s"], record["rcode"]
            answered.l7.latency_ns = record["latency_ns"]
            answered.Summary = summarise(answered)
            when_ns = record["began_ns"] + record["latency_ns"]
            found.append(FlowEntry(when_ns, self._directory.between(server, client), RequestHead(answered), b""))
        return found
