# SPDX-License-Identifier: Apache-2.0
"""Who the two ends of a packet are, as the tables say when its event arrives. Pure.

Names are not changed later: a flow shows what was known of an address when it was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from agent.datapath.flow_layout import DatapathEvent, EventType, TraceReason, event_sides
from agent.tables import AgentDB, FrontendKey
from flows.proto import flow_pb2 as pb
from flows.text import RULE_LABEL
from meshmodel import protocol
from meshmodel.identity import LOCAL_SCOPE_CIDR, is_reserved, world_of
from meshmodel.labels import CLUSTER_LABEL
from meshpolicy import RuleOrigin

_REMEMBERED: Final = 1 << 14


class Rules(Protocol):
    """The policy rule with a number that is in the maps; None if it is not known."""

    def __call__(self, number: int, /) -> RuleOrigin | None: ...


class KnownNames(Protocol):
    """What pods of this node were told of DNS names."""

    def names_for(self, endpoint: str, address: str) -> list[str]:
        """The names by which the pod with the one address knows the other, sorted."""
        ...

    @property
    def revision(self) -> int:
        """Another number whenever they may be others."""
        ...


class Side(NamedTuple):
    """One side. `endpoint` is the encoded message; `is_labelled`: its identity is one of which we know what it means."""

    ip: str
    endpoint: bytes
    namespace: str
    cluster: str
    is_labelled: bool


class Services(NamedTuple):
    """Encoded services of the source and the destination, if they are any, and the frontend that the source was made."""

    source: bytes = b""
    destination: bytes = b""
    source_xlated: str = ""


class Sides:
    """Both ends of a packet, the services they are and the rule that decided; compared by identity.

    `source_xlated`: the service address that an answer's source was made.
    """

    __slots__ = (
        "destination",
        "destination_names",
        "destination_service",
        "policy",
        "source",
        "source_names",
        "source_service",
        "source_xlated",
        "version",
    )

    def __init__(
        self,
        source: Side,
        destination: Side,
        services: Services,
        policy: bytes,
        names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    ) -> None:
        self.source, self.destination, self.policy = source, destination, policy
        self.source_names, self.destination_names = names
        self.source_service, self.destination_service, self.source_xlated = services
        self.version = pb.IPv6 if ":" in source.ip else pb.IPv4


class Directory:
    """Sides by what a record of the kernel says of them, looked up once until a table changes."""

    def __init__(self, db: AgentDB, rule_origin: Rules, names: KnownNames | None = None) -> None:
        self._db, self._rule_origin, self._names = db, rule_origin, names
        self._ends: dict[tuple[str, int], Side] = {}
        self._sides: dict[bytes, Sides] = {}
        self._seen: tuple[int, ...] = ()

    def refresh(self) -> None:
        """Forget what was looked up if a table that it came from changed since; called before a batch of events."""
        db = self._db
        tables = (db.prefixes, db.identities, db.frontends, db.endpoints, db.policies)
        of_names = self._names.revision if self._names is not None else 0
        seen = (of_names, *(table.changed.count for table in tables))
        if seen != self._seen or len(self._sides) > _REMEMBERED:
            self._seen = seen
            self._ends.clear()
            self._sides.clear()

    def find(self, raw: bytes) -> Sides:
        """The sides of one `struct event`."""
        key = event_sides(raw)
        found = self._sides.get(key)
        if found is None:
            found = self._sides[key] = self._look_up(DatapathEvent.unpack(raw))
        return found

    def between(self, source: str, destination: str) -> Sides:
        """The sides of a record that names nothing but addresses."""
        return Sides(
            self._end(source, 0), self._end(destination, 0), Services(), b"", self._names_between(source, destination)
        )

    def _names_between(self, source: str, destination: str) -> tuple[list[str], list[str]]:
        """The names by which each end is known to the other."""
        if self._names is None:
            return [], []
        return self._names.names_for(destination, source), self._names.names_for(source, destination)

    def _look_up(self, event: DatapathEvent) -> Sides:
        source = self._end(event.source, event.source_identity)
        destination = self._end(event.destination, event.destination_identity)
        policy = self._policy(event.rule_id) if event.rule_id else b""
        names = self._names_between(event.source, event.destination)
        return Sides(source, destination, self._services(event), policy, names)

    def _end(self, ip: str, identity: int) -> Side:
        found = self._ends.get((ip, identity))
        if found is None:
            found = self._ends[ip, identity] = self._make_end(ip, identity)
        return found

    def _make_end(self, ip: str, identity: int) -> Side:
        db = self._db
        row = db.prefixes.get(f"{ip}/32" if ":" not in ip else f"{ip}/128")
        number = identity or (row.identity if row is not None else world_of(ip))
        known = db.identities.get(number)
        cluster = str(known.cluster if known is not None else (row.cluster if row is not None else ""))
        if known is not None:
            cluster = next((label.value for label in known.labels if label.key == CLUSTER_LABEL), cluster)
        labels = [f"{x.source}:{x.key}={x.value}" for x in known.labels] if known is not None else []
        is_pod = row is not None and bool(row.namespace)
        namespace, pod = (row.namespace, row.name) if row is not None and is_pod else ("", "")
        local = db.endpoints.get(ip) or next((e for e in db.endpoints.rows() if ip in e.ipv6), None)
        endpoint = pb.Endpoint(
            ID=local.endpoint_id if local is not None else 0,
            identity=number, namespace=namespace, pod_name=pod, cluster_name=cluster, labels=labels,
        )  # fmt: skip
        is_labelled = is_reserved(number) or number >= LOCAL_SCOPE_CIDR or bool(labels)
        return Side(ip, endpoint.SerializeToString(), namespace, cluster, is_labelled)

    def _services(self, event: DatapathEvent) -> Services:
        """A frontend that was used is told of the end that it led to; of a translation the end is it, by address and port."""
        if event.type == EventType.TRANSLATION:
            source = self._service(event.protocol, event.source, event.source_port)
            return Services(source, self._service(event.protocol, event.destination, event.destination_port))
        if not event.frontend_port:
            return Services()
        used = self._service(event.protocol, event.frontend, event.frontend_port)
        if not used:
            used = pb.Service(name=f"{event.frontend}:{event.frontend_port}").SerializeToString()
        if event.type == EventType.TRACE and event.reason == TraceReason.REPLY:
            return Services(source=used, source_xlated=event.frontend)
        return Services(destination=used)

    def _service(self, number: int, address: str, port: int) -> bytes:
        name = protocol.PROTOCOL_NAMES.get(number, str(number))
        row = self._db.frontends.get(FrontendKey(address, port, name)) if port else None
        return pb.Service(name=row.service.name, namespace=row.service.namespace).SerializeToString() if row else b""

    def _policy(self, rule: int) -> bytes:
        origin = self._rule_origin(rule)
        if origin is None:
            return b""
        ref, label = origin.policy, f"{RULE_LABEL}{origin}"
        return pb.Policy(kind=ref.kind, namespace=ref.namespace, name=ref.name, labels=[label]).SerializeToString()
