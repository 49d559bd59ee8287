# SPDX-License-Identifier: Apache-2.0
"""What is counted of flows, under Hubble's names. Pure. Source: the metrics of Hubble and their options.

A measure is asked for as `NAME[:OPTION=VALUE[;...]]`, several separated by spaces: `drop:sourceContext=namespace|identity`.
The options sourceContext and destinationContext add a label `source` or `destination`, the first of the words that
says something; labelsContext adds labels by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.words import (
    ACCESS_LOG,
    DROP,
    MATCHES,
    POLICY_VERDICT,
    RESERVED,
    TRACE,
    TRACE_SOCK,
    type_text,
)

Sample = tuple[str, tuple[str, ...], float]
"""A family, the values of its labels in its order, and by how much it grows (or what was measured)."""


class MeasuredFamily(NamedTuple):
    """One metric without its prefix and ending: what it counts, and its labels before those of the context."""

    help: str
    labels: tuple[str, ...]
    is_histogram: bool = False


FAMILIES: Final[Mapping[str, MeasuredFamily]] = {
    "flows_processed": MeasuredFamily("flows", ("type", "subtype", "verdict")),
    "drop": MeasuredFamily("flows that were dropped", ("reason", "protocol")),
    "tcp_flags": MeasuredFamily("packets of TCP with these flags", ("flag", "family")),
    "icmp": MeasuredFamily("packets of ICMP", ("family", "type")),
    "policy_verdicts": MeasuredFamily("decisions of policies", ("direction", "match", "action")),
    "flows_to_world": MeasuredFamily("flows to what is outside of clusters", ("protocol", "verdict")),
    "port_distribution": MeasuredFamily("flows by port of the destination", ("protocol", "port")),
    "dns_queries": MeasuredFamily("questions to DNS", ("qtypes",)),
    "dns_responses": MeasuredFamily("answers of DNS", ("rcode", "qtypes", "ips_returned")),
    "dns_response_types": MeasuredFamily("records in answers of DNS", ("type", "qtypes")),
    "http_requests": MeasuredFamily(
        "requests of HTTP that were answered", ("method", "protocol", "status", "reporter")
    ),
    "http_request_duration_seconds": MeasuredFamily("how long answers took", ("method", "reporter"), is_histogram=True),
}
_CONTEXTS: Final[Mapping[str, Callable[[pb.Endpoint, list[str], str], str]]] = {
    "identity": lambda end, _names, _ip: _identity_labels(end),
    "namespace": lambda end, _names, _ip: end.namespace,
    "pod": lambda end, _names, _ip: f"{end.namespace}/{end.pod_name}" if end.pod_name else "",
    "pod-name": lambda end, _names, _ip: end.pod_name,
    "dns": lambda _end, names, _ip: ",".join(names),
    "ip": lambda _end, _names, ip: ip,
    "reserved-identity": lambda end, _names, _ip: RESERVED[end.identity] if 0 < end.identity < len(RESERVED) else "",
    "workload": lambda end, _names, _ip: f"{end.namespace}/{end.workloads[0].name}" if end.workloads else "",
    "workload-name": lambda end, _names, _ip: end.workloads[0].name if end.workloads else "",
    "app": lambda end, _names, _ip: _app(end),
    "cluster": lambda end, _names, _ip: end.cluster_name,
}
_LABELLED: Final = ("ip", "pod", "namespace", "workload", "app", "cluster")
_LABELS: Final = (
    *(f"{side}_{name}" for side in ("source", "destination") for name in _LABELLED),
    "traffic_direction",
)
_LABEL_CONTEXTS: Final = {"pod": "pod-name", "workload": "workload-name"}
_APP_LABELS: Final = ("k8s-app", "app", "app.kubernetes.io/name")


class Measure(NamedTuple):
    """One measure as it was asked for."""

    name: str
    source: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def context_labels(self) -> tuple[str, ...]:
        """Names of the labels that the context adds."""
        sides = (("source", self.source), ("destination", self.destination))
        return tuple(name for name, words in sides if words) + self.labels

    @property
    def looks_at_ports(self) -> bool:
        """Flows with equal sides and heads may differ in it."""
        return self.name == "port-distribution"

    def samples(self, flow: pb.Flow) -> Iterator[Sample]:
        """What the flow adds."""
        context = tuple(self._context(flow))
        for family, values, number in _MEASURES[self.name](flow):
            yield family, (*values, *context), number

    def _context(self, flow: pb.Flow) -> Iterator[str]:
        ends = (
            (self.source, flow.source, list(flow.source_names), flow.IP.source),
            (self.destination, flow.destination, list(flow.destination_names), flow.IP.destination),
        )
        for words, end, names, ip in ends:
            if words:
                yield next((found for word in words if (found := _CONTEXTS[word](end, names, ip))), "")
        for label in self.labels:
            if label == "traffic_direction":
                yield _direction(flow)
                continue
            side, _, name = label.partition("_")
            _, end, names, ip = ends[side == "destination"]
            yield _CONTEXTS[_LABEL_CONTEXTS.get(name, name)](end, names, ip)


def parse_measures(text: str) -> tuple[Measure, ...]:
    """Raises: RequestError for what is no measure, option or context."""
    found: dict[str, Measure] = {}
    for word in text.split():
        name, _, options = word.partition(":")
        if name not in _MEASURES:
            raise RequestError(f"there is no measure {name!r}; there are {', '.join(_MEASURES)}")
        if name in found:
            raise RequestError(f"measure {name!r} is given twice")
        fields: dict[str, tuple[str, ...]] = {}
        for option in filter(None, options.split(";")):
            key, _, value = option.partition("=")
            if key not in _OPTIONS:
                raise RequestError(f"{name}: there is no option {key!r}; there are {', '.join(_OPTIONS)}")
            field, separator, known = _OPTIONS[key]
            words = tuple(filter(None, value.split(separator)))
            wrong = [each for each in words if each not in known]
            if wrong or not words or len(set(words)) < len(words):
                raise RequestError(f"{name}: {key}={value}: write one or more of {', '.join(known)}, each once")
            fields[field] = words
        found[name] = Measure(name, **fields)
    return tuple(found.values())


_OPTIONS: Final = {
    "sourceContext": ("source", "|", tuple(_CONTEXTS)),
    "destinationContext": ("destination", "|", tuple(_CONTEXTS)),
    "labelsContext": ("labels", ",", _LABELS),
}
_KINDS: Final = {
    DROP: "Drop", TRACE: "Trace", POLICY_VERDICT: "PolicyVerdict", TRACE_SOCK: "TraceSock", ACCESS_LOG: "L7",
}  # fmt: skip


def _flow(flow: pb.Flow) -> Iterator[Sample]:
    kind = _KINDS.get(flow.event_type.type, "Unknown")
    subtype = flow.l7.WhichOneof("record") or "" if flow.HasField("l7") else type_text(flow).partition(" ")[0]
    if kind in ("Drop", "PolicyVerdict"):
        subtype = ""
    yield "flows_processed", (kind, subtype.upper() if kind == "L7" else subtype, pb.Verdict.Name(flow.verdict)), 1


def _drop(flow: pb.Flow) -> Iterator[Sample]:
    if flow.verdict == pb.DROPPED:
        number = flow.drop_reason_desc or flow.drop_reason
        reason = (
            pb.DropReason.Name(pb.DropReason.ValueType(number)) if number in pb.DropReason.values() else str(number)
        )
        yield "drop", (reason, _protocol(flow)), 1


def _tcp(flow: pb.Flow) -> Iterator[Sample]:
    flags = flow.l4.TCP.flags
    if flow.verdict not in (pb.FORWARDED, pb.REDIRECTED) or flow.HasField("l7"):
        return
    for is_set, name in (
        (flags.SYN, "SYN-ACK" if flags.ACK else "SYN"),
        (flags.FIN, "FIN"),
        (flags.RST, "RST"),
    ):
        if is_set:
            yield "tcp_flags", (name, _family(flow)), 1


def _icmp(flow: pb.Flow) -> Iterator[Sample]:
    if flow.l4.WhichOneof("protocol") in ("ICMPv4", "ICMPv6"):
        yield "icmp", (_family(flow), flow.Summary.partition(" ")[2]), 1


def _policy(flow: pb.Flow) -> Iterator[Sample]:
    if flow.event_type.type == POLICY_VERDICT:
        match = MATCHES[flow.policy_match_type] if flow.policy_match_type < len(MATCHES) else "unknown"
        yield "policy_verdicts", (_direction(flow), match, pb.Verdict.Name(flow.verdict).lower()), 1


def _to_world(flow: pb.Flow) -> Iterator[Sample]:
    identity = flow.destination.identity
    is_world = 0 < identity < len(RESERVED) and RESERVED[identity].startswith("world")
    is_reply = flow.HasField("is_reply") and flow.is_reply.value
    if (is_world or "reserved:world" in flow.destination.labels) and not is_reply:
        yield "flows_to_world", (_protocol(flow), pb.Verdict.Name(flow.verdict)), 1


def _ports(flow: pb.Flow) -> Iterator[Sample]:
    name = flow.l4.WhichOneof("protocol")
    is_reply = not flow.HasField("is_reply") or flow.is_reply.value
    if flow.verdict == pb.FORWARDED and name in ("TCP", "UDP", "SCTP") and not is_reply:
        yield "port_distribution", (name, str(getattr(flow.l4, name).destination_port)), 1


def _dns(flow: pb.Flow) -> Iterator[Sample]:
    if flow.l7.WhichOneof("record") != "dns":
        return
    dns, types = flow.l7.dns, ",".join(flow.l7.dns.qtypes)
    if flow.l7.type == pb.REQUEST:
        yield "dns_queries", (types,), 1
    elif flow.l7.type == pb.RESPONSE:
        yield "dns_responses", (str(dns.rcode), types, str(len(dns.ips))), 1
        for kind in dns.rrtypes:
            yield "dns_response_types", (kind, types), 1


def _http(flow: pb.Flow) -> Iterator[Sample]:
    if flow.l7.WhichOneof("record") != "http" or flow.l7.type != pb.RESPONSE:
        return
    http, reporter = flow.l7.http, "server" if flow.traffic_direction == pb.INGRESS else "client"
    yield "http_requests", (http.method, http.protocol, str(http.code), reporter), 1
    yield "http_request_duration_seconds", (http.method, reporter), flow.l7.latency_ns / 1e9


_MEASURES: Final[Mapping[str, Callable[[pb.Flow], Iterator[Sample]]]] = {
    "flow": _flow, "drop": _drop, "tcp": _tcp, "icmp": _icmp, "policy": _policy, "flows-to-world": _to_world,
    "port-distribution": _ports, "dns": _dns, "http": _http,
}  # fmt: skip
FAMILIES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "flow": ("flows_processed",), "drop": ("drop",), "tcp": ("tcp_flags",), "icmp": ("icmp",),
    "policy": ("policy_verdicts",), "flows-to-world": ("flows_to_world",), "port-distribution": ("port_distribution",),
    "dns": ("dns_queries", "dns_responses", "dns_response_types"),
    "http": ("http_requests", "http_request_duration_seconds"),
}  # fmt: skip


def _protocol(flow: pb.Flow) -> str:
    return flow.l4.WhichOneof("protocol") or "UNKNOWN"


def _family(flow: pb.Flow) -> str:
    return "IPv6" if flow.IP.ipVersion == pb.IPv6 else "IPv4"


def _direction(flow: pb.Flow) -> str:
    return {pb.INGRESS: "ingress", pb.EGRESS: "egress"}.get(flow.traffic_direction, "unknown")


def _identity_labels(end: pb.Endpoint) -> str:
    if end.identity < len(RESERVED):
        return f"reserved:{RESERVED[end.identity]}"
    return ",".join(end.labels)


def _app(end: pb.Endpoint) -> str:
    labels = dict(label.removeprefix("k8s:").partition("=")[::2] for label in end.labels)
    return next((labels[key] for key in _APP_LABELS if labels.get(key)), "")
