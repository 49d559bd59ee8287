# SPDX-License-Identifier: Apache-2.0
"""Which flows a request asks for. Pure. Source: the semantics of Hubble's FlowFilter.

Values of one field are alternatives, fields of one filter must all match, filters of a list are alternatives. What a flow's
sides or its head say is looked at once for all flows that share them (see `flows.ring.FlowEntry`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from google.protobuf.unknown_fields import UnknownFieldSet

from flows.errors import FilterError
from flows.label_selector import parse_labels, parse_selector
from flows.pattern import compile_expression, compile_name, compile_node
from flows.proto import flow_pb2 as pb

Predicate = Callable[[pb.Flow], bool]

MOST_VALUES: Final = 1000
"""Values of all fields of one filter together."""
_STATUS: Final = re.compile(r"[1-5][0-9]{2}|[1-5]?[0-9]?\+")
_TRANSPORTS: Final = {
    "tcp": ("TCP",), "udp": ("UDP",), "sctp": ("SCTP",), "icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",),
    "icmpv6": ("ICMPv6",),
}  # fmt: skip
_MESSAGES: Final = ("http", "dns")


class Filter(NamedTuple):
    """One FlowFilter, by what its fields look at: the sides of a flow, its head, or anything else."""

    sides: tuple[Predicate, ...]
    head: tuple[Predicate, ...]
    rest: tuple[Predicate, ...]

    def passes(self, flow: pb.Flow) -> bool:
        """All fields match."""
        return all(p(flow) for p in self.sides) and all(p(flow) for p in self.head) and all(p(flow) for p in self.rest)


def compile_filter(wanted: pb.FlowFilter) -> Filter:
    """Raises: FilterError for a value that means nothing, and for a field that this version does not know."""
    unknown = UnknownFieldSet(wanted)
    if numbers := sorted({unknown[n].field_number for n in range(len(unknown))}):
        raise FilterError(
            "filter", f"fields {', '.join(map(str, numbers))} are not known here; nothing is filtered by them"
        )
    fields = [(field.name, value) for field, value in wanted.ListFields()]
    if sum(len(values) for _, values in fields) > MOST_VALUES:
        raise FilterError("filter", f"more than {MOST_VALUES} values")
    groups: dict[str, list[Predicate]] = {"sides": [], "head": [], "rest": []}
    for name, values in fields:
        group, make = _FIELDS[name]
        groups[group].append(make(values, name))
    return Filter(tuple(groups["sides"]), tuple(groups["head"]), tuple(groups["rest"]))


# ---- fields

EndOf = Callable[[pb.Flow], pb.Endpoint]


def _source(flow: pb.Flow) -> pb.Endpoint:
    return flow.source


def _destination(flow: pb.Flow) -> pb.Endpoint:
    return flow.destination


def _address(read: Callable[[pb.Flow], str]) -> Callable[[Sequence[str], str], Predicate]:
    def make(values: Sequence[str], field: str) -> Predicate:
        networks = [_network(value, field) for value in values]

        def matches(flow: pb.Flow) -> bool:
            try:
                address = ipaddress.ip_address(read(flow))
            except ValueError:
                return False
            return any(address in network for network in networks)

        return matches

    return make


def _network(text: str, field: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as exc:
        raise FilterError(field, f"{text[:100]!r} is neither an address nor a network such as 10.0.0.0/8") from exc


def _named(read: Callable[[pb.Flow], tuple[str, str]]) -> Callable[[Sequence[str], str], Predicate]:
    """`namespace/prefix`, `namespace/`, or a prefix in any namespace."""

    def make(values: Sequence[str], field: str) -> Predicate:
        wanted = [_split(value, field) for value in values]

        def matches(flow: pb.Flow) -> bool:
            namespace, name = read(flow)
            if not namespace and not name:
                return False
            return any(name.startswith(prefix) and space in ("", namespace) for space, prefix in wanted)

        return matches

    return make


def _split(text: str, field: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not slash:
        namespace, name = "", text
    if (not namespace and not name) or "/" in name:
        raise FilterError(field, f"{text[:100]!r} is not namespace/name, namespace/ or name")
    return namespace, name


def _names(read: Callable[[pb.Flow], Iterable[str]]) -> Callable[[Sequence[str], str], Predicate]:
    def make(values: Sequence[str], field: str) -> Predicate:
        patterns = [compile_name(value, field) for value in values]
        return lambda flow: any(pattern(name) for name in read(flow) for pattern in patterns)

    return make


def _labels(read: Callable[[pb.Flow], Iterable[str]]) -> Callable[[Sequence[str], str], Predicate]:
    def make(values: Sequence[str], field: str) -> Predicate:
        selectors = [parse_selector(value, field) for value in values]

        def matches(flow: pb.Flow) -> bool:
            labels = parse_labels(read(flow))
            return any(selector(labels) for selector in selectors)

        return matches

    return make


def _workloads(end: EndOf) -> Callable[[Sequence[pb.Workload], str], Predicate]:
    def make(values: Sequence[pb.Workload], field: str) -> Predicate:
        if any(not value.name and not value.kind for value in values):
            raise FilterError(field, "a workload has a name, a kind, or both")

        def matches(flow: pb.Flow) -> bool:
            return any(
                value.name in ("", found.name) and value.kind in ("", found.kind)
                for found in end(flow).workloads
                for value in values
            )

        return matches

    return make


def _one_of(read: Callable[[pb.Flow], Any]) -> Callable[[Sequence[Any], str], Predicate]:
    def make(values: Sequence[Any], _field: str) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: read(flow) in wanted

    return make


def _staged(values: Sequence[pb.Verdict.ValueType], _field: str) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.HasField("staged") and flow.staged.verdict in wanted


def _nodes(values: Sequence[str], field: str) -> Predicate:
    patterns = [compile_node(value, field) for value in values]
    return lambda flow: any(pattern(flow.node_name) for pattern in patterns)


def _event_types(values: Sequence[pb.EventTypeFilter], _field: str) -> Predicate:
    wanted = frozenset((value.type, value.sub_type if value.match_sub_type else None) for value in values)

    def matches(flow: pb.Flow) -> bool:
        kind = flow.event_type
        return (kind.type, None) in wanted or (kind.type, kind.sub_type) in wanted

    return matches


def _replies(values: Sequence[bool], _field: str) -> Predicate:
    wanted = frozenset(values)

    def matches(flow: pb.Flow) -> bool:
        if flow.HasField("is_reply"):
            return flow.is_reply.value in wanted
        return flow.verdict == pb.DROPPED and False in wanted

    return matches


def _protocols(values: Sequence[str], field: str) -> Predicate:
    transports: set[str] = set()
    messages: set[str] = set()
    for value in values:
        name = value.lower()
        if name in _MESSAGES:
            messages.add(name)
        elif name in _TRANSPORTS:
            transports.update(_TRANSPORTS[name])
        else:
            known = ", ".join(sorted([*_TRANSPORTS, *_MESSAGES]))
            raise FilterError(field, f"{value[:100]!r} is not one of {known}")
    return lambda flow: flow.l4.WhichOneof("protocol") in transports or flow.l7.WhichOneof("record") in messages


def _flags(values: Sequence[pb.TCPFlags], field: str) -> Predicate:
    wanted = [[found.name for found, _ in value.ListFields()] for value in values]
    if not all(wanted):
        raise FilterError(field, "no flag is named")

    def matches(flow: pb.Flow) -> bool:
        flags = flow.l4.TCP.flags
        return any(all(getattr(flags, name) for name in names) for names in wanted)

    return matches


def _ports(*, is_source: bool) -> Callable[[Sequence[str], str], Predicate]:
    attribute = "source_port" if is_source else "destination_port"

    def make(values: Sequence[str], field: str) -> Predicate:
        wanted = frozenset(_port(value, field) for value in values)

        def matches(flow: pb.Flow) -> bool:
            name = flow.l4.WhichOneof("protocol")
            return name in ("TCP", "UDP", "SCTP") and getattr(getattr(flow.l4, name), attribute) in wanted

        return matches

    return make


def _port(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise FilterError(field, f"{text[:100]!r} is no port")
    return int(text)


def _statuses(values: Sequence[str], field: str) -> Predicate:
    if bad := [value for value in values if _STATUS.fullmatch(value) is None]:
        raise FilterError(field, f"{bad[0][:100]!r} is neither a status such as 200 nor a prefix such as 4+ or 50+")
    exact = frozenset(value for value in values if not value.endswith("+"))
    prefixes = tuple(value[:-1] for value in values if value.endswith("+"))

    def matches(flow: pb.Flow) -> bool:
        code = str(flow.l7.http.code) if flow.l7.http.code else ""
        return bool(code) and (code in exact or code.startswith(prefixes))

    return matches


def _methods(values: Sequence[str], _field: str) -> Predicate:
    wanted = frozenset(value.upper() for value in values)
    return lambda flow: flow.l7.WhichOneof("record") == "http" and flow.l7.http.method.upper() in wanted


def _expressions(record: str, read: Callable[[pb.Flow], str]) -> Callable[[Sequence[str], str], Predicate]:
    def make(values: Sequence[str], field: str) -> Predicate:
        found = [compile_expression(value, field) for value in values]

        def matches(flow: pb.Flow) -> bool:
            if flow.l7.WhichOneof("record") != record:
                return False
            text = read(flow)
            return any(match(text) for match in found)

        return matches

    return make


def _path(flow: pb.Flow) -> str:
    try:
        return urlsplit(flow.l7.http.url).path
    except ValueError:
        return flow.l7.http.url


def _headers(values: Sequence[pb.HTTPHeader], _field: str) -> Predicate:
    wanted = frozenset((value.key.lower(), value.value) for value in values)
    return lambda flow: any((found.key.lower(), found.value) in wanted for found in flow.l7.http.headers)


def _interfaces(values: Sequence[pb.NetworkInterface], field: str) -> Predicate:
    if any(not value.index and not value.name for value in values):
        raise FilterError(field, "an interface has a name, an index, or both")

    def matches(flow: pb.Flow) -> bool:
        found = flow.interface
        return any(v.index in (0, found.index) and v.name in ("", found.name) for v in values)

    return matches


Make = Callable[[Any, str], Predicate]
_FIELDS: Final[dict[str, tuple[str, Make]]] = {
    "source_ip": ("sides", _address(lambda flow: flow.IP.source)),
    "destination_ip": ("sides", _address(lambda flow: flow.IP.destination)),
    "source_ip_xlated": ("rest", _address(lambda flow: flow.IP.source_xlated)),
    "source_pod": ("sides", _named(lambda flow: (flow.source.namespace, flow.source.pod_name))),
    "destination_pod": ("sides", _named(lambda flow: (flow.destination.namespace, flow.destination.pod_name))),
    "source_service": ("sides", _named(lambda flow: (flow.source_service.namespace, flow.source_service.name))),
    "destination_service": (
        "sides", _named(lambda flow: (flow.destination_service.namespace, flow.destination_service.name))
    ),
    "source_fqdn": ("sides", _names(lambda flow: flow.source_names)),
    "destination_fqdn": ("sides", _names(lambda flow: flow.destination_names)),
    "source_label": ("sides", _labels(lambda flow: flow.source.labels)),
    "destination_label": ("sides", _labels(lambda flow: flow.destination.labels)),
    "source_identity": ("sides", _one_of(lambda flow: flow.source.identity)),
    "destination_identity": ("sides", _one_of(lambda flow: flow.destination.identity)),
    "source_workload": ("sides", _workloads(_source)),
    "destination_workload": ("sides", _workloads(_destination)),
    "source_cluster_name": ("sides", _one_of(lambda flow: flow.source.cluster_name)),
    "destination_cluster_name": ("sides", _one_of(lambda flow: flow.destination.cluster_name)),
    "ip_version": ("sides", _one_of(lambda flow: flow.IP.ipVersion)),
    "node_name": ("sides", _nodes),
    "node_labels": ("sides", _labels(lambda flow: flow.node_labels)),
    "verdict": ("head", _one_of(lambda flow: flow.verdict)),
    "staged_verdict": ("head", _staged),
    "drop_reason_desc": ("head", _one_of(lambda flow: flow.drop_reason_desc)),
    "event_type": ("head", _event_types),
    "reply": ("head", _replies),
    "protocol": ("head", _protocols),
    "tcp_flags": ("head", _flags),
    "traffic_direction": ("head", _one_of(lambda flow: flow.traffic_direction)),
    "source_port": ("rest", _ports(is_source=True)),
    "destination_port": ("rest", _ports(is_source=False)),
    "uuid": ("rest", _one_of(lambda flow: flow.uuid)),
    "trace_id": ("rest", _one_of(lambda flow: flow.trace_context.parent.trace_id)),
    "ip_trace_id": ("rest", _one_of(lambda flow: flow.ip_trace_id.trace_id)),
    "encrypted": ("rest", _one_of(lambda flow: flow.IP.encrypted)),
    "interface": ("rest", _interfaces),
    "http_status_code": ("rest", _statuses),
    "http_method": ("rest", _methods),
    "http_path": ("rest", _expressions("http", _path)),
    "http_url": ("rest", _expressions("http", lambda flow: flow.l7.http.url)),
    "http_header": ("rest", _headers),
    "dns_query": ("rest", _expressions("dns", lambda flow: flow.l7.dns.query)),
}  # fmt: skip
