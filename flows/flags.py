# SPDX-License-Identifier: Apache-2.0
"""The filter flags of `hubble observe` as filters of a request. Pure. Source: what Hubble's command sends for them.

A flag without a direction makes two filters, one for each side of a flow; all other flags stand in both. The order of flags
matters for `--not` only, which sends the next one to the blacklist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from flows.errors import FilterError
from flows.filters import compile_filter
from flows.proto import flow_pb2 as pb
from flows.words import EVENT_TYPES, RESERVED, SOCKET_POINTS, TRACE, TRACE_POINTS, TRACE_SOCK

SIDED: Final = (
    "pod",
    "namespace",
    "all-namespaces",
    "label",
    "service",
    "ip",
    "port",
    "fqdn",
    "identity",
    "workload",
    "cluster",
)
"""Each of them also with `from-` and `to-`."""
SINGLE: Final = {
    "verdict": "FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED or TRANSLATED",
    "staged-verdict": "FORWARDED, DROPPED or REDIRECTED: what staged policies would decide, and do not",
    "type": "TYPE[:SUBTYPE]: drop, trace:to-overlay, policy-verdict, trace-sock, l7",
    "protocol": "tcp, udp, sctp, icmp, icmpv4, icmpv6, http or dns",
    "tcp-flags": "flags that are all set: SYN,ACK",
    "drop-reason-desc": "POLICY_DENIED and its like, or a number",
    "http-status": "200, 4+ or 50+",
    "http-method": "GET and its like",
    "http-path": "an RE2 expression that is found in the path",
    "http-url": "an RE2 expression that is found in the URL",
    "http-header": "NAME:VALUE",
    "node-name": "NODE, CLUSTER/NODE or CLUSTER/; * stands for anything within one label",
    "node-label": "a selector of nodes",
    "traffic-direction": "ingress or egress",
    "ip-version": "4 or 6",
    "snat-ip": "the source address after translation, or its network",
    "interface": "name of the network interface",
    "uuid": "of one flow",
    "trace-id": "of a request",
    "ip-trace-id": "of a packet",
}
"""With what they take."""
SWITCHES: Final = ("encrypted", "unencrypted", "ipv4", "ipv6")
NOT: Final = "not"

_VALUELESS: Final = {*SWITCHES, "all-namespaces", "from-all-namespaces", "to-all-namespaces"}


class FilterFlag(NamedTuple):
    """One flag as it was given, without dashes; "" where it takes no value."""

    name: str
    value: str = ""


class Lists(NamedTuple):
    """What a request has."""

    whitelist: list[pb.FlowFilter]
    blacklist: list[pb.FlowFilter]


def takes_value(name: str) -> bool:
    """The flag is followed by a value."""
    return name not in _VALUELESS


def make_lists(flags: Sequence[FilterFlag]) -> Lists:
    """Filters of the flags in the order in which they were given. Raises: FilterError."""
    chosen: dict[bool, list[FilterFlag]] = {False: [], True: []}
    is_negated = False
    for flag in flags:
        if flag.name == NOT:
            if is_negated:
                raise FilterError("--not", "given twice; it is about the one flag that follows")
            is_negated = True
        else:
            chosen[is_negated].append(flag)
            is_negated = False
    if is_negated:
        raise FilterError("--not", "no filter follows it")
    return Lists(_filters(chosen[False]), _filters(chosen[True]))


def _filters(flags: Sequence[FilterFlag]) -> list[pb.FlowFilter]:
    if not flags:
        return []
    _refuse_conflicts({flag.name for flag in flags})
    sides = pb.FlowFilter(), pb.FlowFilter()
    namespaces = {side: [f.value for f in flags if f.name == f"{side}namespace"] for side in ("", "from-", "to-")}
    for flag in flags:
        side, name = _split(flag.name)
        if name == "namespace":
            continue
        if name in ("pod", "service"):
            for space in _namespaces(side, namespaces) or [""]:
                _add_sided(sides, side, name, _qualified(space, flag.value, flag.name))
        elif name in SIDED:
            _add_sided(sides, side, name, flag.value)
        else:
            for wanted in sides:
                _SINGLES[name](wanted, flag.value)
    for side, values in namespaces.items():
        if values and not any(_split(flag.name)[1] in ("pod", "service") for flag in flags):
            for value in values:
                _add_sided(sides, side, "pod", f"{value}/")
    left, right = sides
    found = [left] if left == right else [left, right]
    for wanted in found:
        compile_filter(wanted)
    return [wanted for wanted in found if wanted.ListFields()]


def _split(name: str) -> tuple[str, str]:
    for side in ("from-", "to-"):
        if name.startswith(side):
            return side, name.removeprefix(side)
    return "", name


def _refuse_conflicts(names: Iterable[str]) -> None:
    """A kind of flag is for both sides or for each of them; a namespace is that of both or of each."""
    given = set(names)
    pairs = [(name, f"{side}{name}") for name in SIDED for side in ("from-", "to-")]
    pairs += [("namespace", f"{side}{name}") for name in ("pod", "service") for side in ("from-", "to-")]
    pairs += [(f"{side}namespace", f"{side}all-namespaces") for side in ("", "from-", "to-")]
    pairs += [
        (f"{side}{one}", f"{side}{other}")
        for side in ("from-", "to-")
        for one, other in (("pod", "ip"), ("fqdn", "ip"))
    ]
    pairs += [("encrypted", "unencrypted"), ("ipv4", "ipv6")]
    for one, other in pairs:
        if one in given and other in given:
            raise FilterError(f"--{one}", f"cannot be combined with --{other}")


def _namespaces(side: str, found: dict[str, list[str]]) -> list[str]:
    return found[side] or (found[""] if side else [])


def _qualified(namespace: str, value: str, flag: str) -> str:
    if namespace and "/" in value:
        if value.partition("/")[0] != namespace:
            raise FilterError(f"--{flag}", f"{value!r} is not in namespace {namespace!r}")
        return value
    return f"{namespace}/{value}" if namespace else value


_FIELDS: Final = {
    "pod": "pod", "label": "label", "service": "service", "ip": "ip", "port": "port", "fqdn": "fqdn",
    "identity": "identity", "workload": "workload", "cluster": "cluster_name",
}  # fmt: skip


def _add_sided(sides: tuple[pb.FlowFilter, pb.FlowFilter], side: str, name: str, value: str) -> None:
    """Of a flag for both sides the first filter is about sources, the second about destinations."""
    if name == "all-namespaces":
        return
    left, right = sides
    if side != "to-":
        _add(left, f"source_{_FIELDS[name]}", name, value)
    if side == "from-":
        _add(right, f"source_{_FIELDS[name]}", name, value)
    if side != "from-":
        _add(right, f"destination_{_FIELDS[name]}", name, value)
    if side == "to-":
        _add(left, f"destination_{_FIELDS[name]}", name, value)


def _add(wanted: pb.FlowFilter, field: str, name: str, value: str) -> None:
    values = getattr(wanted, field)
    if name == "identity":
        values.append(_identity(value))
    elif name == "workload":
        kind, slash, rest = value.partition("/")
        values.add(kind=kind if slash else "", name=rest if slash else value)
    else:
        values.append(value)


def _identity(value: str) -> int:
    name = value.lower().removeprefix("reserved:")
    if name in RESERVED:
        return RESERVED.index(name)
    return _number("identity", value)


def _number(flag: str, value: str, most: int = (1 << 32) - 1) -> int:
    if not (value.isascii() and value.isdigit() and int(value) <= most):
        raise FilterError(f"--{flag}", f"{value[:100]!r} is no number up to {most}")
    return int(value)


def _enum(flag: str, words: dict[str, int], value: str) -> int:
    if value.upper() not in words:
        raise FilterError(f"--{flag}", f"{value[:100]!r} is not one of {', '.join(sorted(words))}")
    return words[value.upper()]


def _event_type(wanted: pb.FlowFilter, value: str) -> None:
    name, colon, sub = value.partition(":")
    kind = EVENT_TYPES[name] if name in EVENT_TYPES else _number("type", name, 255)
    if not colon:
        wanted.event_type.add(type=kind)
        return
    names: Sequence[str] = {TRACE: TRACE_POINTS, TRACE_SOCK: SOCKET_POINTS}.get(kind, ())
    number = names.index(sub) if sub in names else _number("type", sub, 255)
    wanted.event_type.add(type=kind, match_sub_type=True, sub_type=number)


def _tcp_flags(wanted: pb.FlowFilter, value: str) -> None:
    flags, known = wanted.tcp_flags.add(), {field.name for field in pb.TCPFlags.DESCRIPTOR.fields}
    for name in value.upper().split(","):
        if name.strip() not in known:
            raise FilterError("--tcp-flags", f"{name[:100]!r} is not one of {', '.join(sorted(known))}")
        setattr(flags, name.strip(), True)


def _verdict(wanted: pb.FlowFilter, value: str) -> None:
    wanted.verdict.append(pb.Verdict.ValueType(_enum("verdict", dict(pb.Verdict.items()), value)))


def _staged_verdict(wanted: pb.FlowFilter, value: str) -> None:
    wanted.staged_verdict.append(pb.Verdict.ValueType(_enum("staged-verdict", dict(pb.Verdict.items()), value)))


def _drop_reason(wanted: pb.FlowFilter, value: str) -> None:
    number = (
        int(value)
        if re.fullmatch("[0-9]{1,3}", value)
        else _enum("drop-reason-desc", dict(pb.DropReason.items()), value)
    )
    wanted.drop_reason_desc.append(pb.DropReason.ValueType(number))


def _direction(wanted: pb.FlowFilter, value: str) -> None:
    words = {"INGRESS": int(pb.INGRESS), "EGRESS": int(pb.EGRESS)}
    wanted.traffic_direction.append(pb.TrafficDirection.ValueType(_enum("traffic-direction", words, value)))


def _version(wanted: pb.FlowFilter, value: str) -> None:
    words = {
        "4": int(pb.IPv4),
        "6": int(pb.IPv6),
        "IPV4": int(pb.IPv4),
        "IPV6": int(pb.IPv6),
        "V4": int(pb.IPv4),
        "V6": int(pb.IPv6),
    }
    wanted.ip_version.append(pb.IPVersion.ValueType(_enum("ip-version", words, value)))


def _header(wanted: pb.FlowFilter, value: str) -> None:
    key, colon, text = value.partition(":")
    if not colon or not key:
        raise FilterError("--http-header", f"{value[:100]!r} is not NAME:VALUE")
    wanted.http_header.add(key=key, value=text.strip())


_SINGLES: Final[dict[str, Callable[[pb.FlowFilter, str], object]]] = {
    "verdict": _verdict,
    "staged-verdict": _staged_verdict,
    "type": _event_type,
    "protocol": lambda wanted, value: wanted.protocol.append(value),
    "tcp-flags": _tcp_flags,
    "drop-reason-desc": _drop_reason,
    "http-status": lambda wanted, value: wanted.http_status_code.append(value),
    "http-method": lambda wanted, value: wanted.http_method.append(value),
    "http-path": lambda wanted, value: wanted.http_path.append(value),
    "http-url": lambda wanted, value: wanted.http_url.append(value),
    "http-header": _header,
    "node-name": lambda wanted, value: wanted.node_name.append(value),
    "node-label": lambda wanted, value: wanted.node_labels.append(value),
    "traffic-direction": _direction,
    "ip-version": _version,
    "snat-ip": lambda wanted, value: wanted.source_ip_xlated.append(value),
    "interface": lambda wanted, value: wanted.interface.add(name=value),
    "uuid": lambda wanted, value: wanted.uuid.append(value),
    "trace-id": lambda wanted, value: wanted.trace_id.append(value),
    "ip-trace-id": lambda wanted, value: wanted.ip_trace_id.append(_number("ip-trace-id", value, (1 << 64) - 1)),
    "encrypted": lambda wanted, _value: wanted.encrypted.append(True),
    "unencrypted": lambda wanted, _value: wanted.encrypted.append(False),
    "ipv4": lambda wanted, _value: wanted.ip_version.append(pb.IPv4),
    "ipv6": lambda wanted, _value: wanted.ip_version.append(pb.IPv6),
}
