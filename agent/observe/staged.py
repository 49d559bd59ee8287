# SPDX-License-Identifier: Apache-2.0
"""What staged policies would decide about the packet of a verdict, as a flow says it. Pure."""

from __future__ import annotations

from typing import Protocol

from agent.datapath.flow_layout import DatapathEvent
from agent.tables import AgentDB, Endpoint
from flows.proto import flow_pb2 as pb
from flows.text import RULE_LABEL
from meshmodel import protocol
from meshpolicy import Direction
from meshpolicy.staged import StagedDecision

_ICMP = (protocol.ICMP, protocol.ICMPV6)


class StagedJudge(Protocol):
    """Decides as if the staged policies were in force."""

    @property
    def is_active(self) -> bool:
        """Something may be decided otherwise."""
        ...

    def judge(
        self, endpoint: Endpoint, direction: Direction, peer: tuple[int, str], port: tuple[int, int]
    ) -> StagedDecision | None:
        """On a new connection with a peer (identity, address) by protocol and port; None: no staged policy is asked."""
        ...


class StagedVerdicts:
    """The verdicts of `judge`, encoded as a flow has them. Who is judged is the pod of this node that the record is of."""

    def __init__(self, db: AgentDB, judge: StagedJudge | None) -> None:
        self._db, self._judge = db, judge

    def of(self, raw: bytes) -> bytes:
        """The `Staged` of a `struct event`; empty where no staged policy is asked."""
        if self._judge is None or not self._judge.is_active:
            return b""
        event = DatapathEvent.unpack(raw)
        own, peer = (event.destination, (event.source_identity, event.source))
        if event.direction == Direction.EGRESS:
            own, peer = event.source, (event.destination_identity, event.destination)
        endpoint = self._db.endpoints.get(own)
        if endpoint is None:
            return b""
        port = event.source_port if event.protocol in _ICMP else event.destination_port
        found = self._judge.judge(endpoint, Direction(event.direction), peer, (event.protocol, port))
        return _encode(found) if found is not None else b""


def _encode(found: StagedDecision) -> bytes:
    ref = found.rule.policy
    policy = pb.Policy(kind=ref.kind, namespace=ref.namespace, name=ref.name, labels=[f"{RULE_LABEL}{found.rule}"])
    allowed = pb.REDIRECTED if found.is_proxied else pb.FORWARDED
    return pb.Staged(verdict=allowed if found.is_allowed else pb.DROPPED, policy=policy).SerializeToString()
