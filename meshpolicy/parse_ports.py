# SPDX-License-Identifier: Apache-2.0
"""toPorts and icmps of Cilium policies: which ports a rule names, and which of them carry rules that need a proxy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from meshpolicy.decode import DocumentNode
from meshpolicy.dns_name import DnsRules
from meshpolicy.http_rule import HttpRules
from meshpolicy.icmp import FAMILIES, TYPE_NAMES
from meshpolicy.parse_l7 import BUILT_IN_KINDS, SECRET_FIELDS, dns_rules, http_rules, parse_l7_rules
from meshpolicy.port import MAXIMUM_PORT, PORT_PROTOCOLS, PORTLESS_PROTOCOLS, TCP, PortSpec, parse_protocol
from meshpolicy.proxy_ports import DNS, HTTP
from meshpolicy.rule import L7Rules
from meshpolicy.server_name import ServerName, ServerNames, server_name

MAXIMUM_PORTS: Final = 40
MAXIMUM_ICMP_FIELDS: Final = 40
MAXIMUM_ICMP_TYPE: Final = 255
_SERVICE_NAME: Final = re.compile(r"(?=.{1,15}$)([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*")
_ICMP_NUMBER: Final = re.compile(r"[0-9]{1,3}")
_PLAIN_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")
_REMEMBERED: Final = 4096
_LONGEST_WORD: Final = 16
_PORT_RULE_FIELDS: Final = frozenset({"ports", "rules", "listener", "serverNames", "terminatingTLS", "originatingTLS"})
_DENY_RULE_FIELDS: Final = frozenset({"ports"})
_PORT_FIELDS: Final = frozenset({"port", "endPort", "protocol"})
_ICMP_RULE_FIELDS: Final = frozenset({"fields"})
_ICMP_FIELDS: Final = frozenset({"family", "type"})
_LISTENER_FIELDS: Final = frozenset({"envoyConfig", "name", "priority"})
_ENVOY_CONFIG_FIELDS: Final = frozenset({"kind", "name"})
_TLS_FIELDS: Final = frozenset({"secret", "trustedCA", "certificate", "privateKey"})


class ProxiedPorts(NamedTuple):
    """Ports of which a proxy allows some requests, questions for some names, or connections to servers of some names."""

    specs: tuple[PortSpec, ...]
    http: HttpRules | None = None
    dns: DnsRules | None = None
    servers: ServerNames | None = None


@dataclass(slots=True)
class Ports:
    """What toPorts and icmps together say."""

    plain: list[PortSpec] = field(default_factory=list)
    unenforced: list[PortSpec] = field(default_factory=list)
    proxied: list[ProxiedPorts] = field(default_factory=list)
    l7: list[L7Rules] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_restricted: bool = False
    """Whether any entry was there: without one, all protocols and ports are meant."""


def parse_ports(
    rule: DocumentNode, *, is_ingress: bool, is_deny: bool, is_host: bool, proxied: frozenset[str] = frozenset()
) -> Ports:
    """Read toPorts and icmps of one ingress or egress rule. Raises PolicyError as the reference's validator does."""
    found = Ports()
    port_rules, icmp_rules = rule.list_of("toPorts"), rule.list_of("icmps")
    if port_rules and icmp_rules:
        rule.fail("icmps and toPorts together", "write a separate rule for icmps, with the same peers")
    found.is_restricted = bool(port_rules or icmp_rules)
    for port_rule in port_rules:
        if is_deny:
            _parse_deny_rule(port_rule, found)
        else:
            _parse_port_rule(port_rule, found, is_ingress=is_ingress, is_host=is_host, proxied=proxied)
    for icmp_rule in icmp_rules:
        found.plain.extend(_parse_icmp_rule(icmp_rule, found))
    return found


def _parse_deny_rule(node: DocumentNode, found: Ports) -> None:
    node.only(_DENY_RULE_FIELDS)
    found.plain.extend(_parse_port_list(node, found))


def _parse_port_rule(
    node: DocumentNode, found: Ports, *, is_ingress: bool, is_host: bool, proxied: frozenset[str]
) -> None:
    fields = node.only(_PORT_RULE_FIELDS).mapping()
    if len(fields) == 1 and "ports" in fields:
        found.plain.extend(_parse_port_list(node, found))
        return
    rules = node.get("rules")
    l7 = parse_l7_rules(rules) if rules is not None else None
    has_dns = rules is not None and bool(rules.list_of(DNS))
    if has_dns and is_ingress:
        node.fail("DNS rules on ingress", "move them to the egress rule of the pods that ask")
    specs = _parse_port_list(node, found, has_dns=has_dns)
    servers = _check_proxy_fields(node, l7, is_ingress=is_ingress)
    if l7 is not None:
        _check_l7(node, l7, specs, has_dns=has_dns, is_host=is_host)
        found.l7.append(l7)
    reason = _reason_of_fields(node)
    if not reason and servers and HTTP in proxied and not is_host:
        _keep_servers(node, servers, specs, found)
        return
    reason = reason or ("a list of server names" if servers else "")
    if not reason and rules is not None and l7 is not None and l7.size and l7.kind in proxied and not is_host:
        made, reason = _proxied(tuple(specs), rules, l7.kind)
        if not reason:
            found.proxied.append(made)
            return
    reason = reason or _reason_of_rules(l7, has_dns=has_dns)
    if not reason:
        found.plain.extend(specs)
        return
    found.unenforced.extend(specs)
    ports = ", ".join(dict.fromkeys(str(spec) for spec in specs)) or "no port"
    found.problems.append(
        f"{node.path}: {reason} cannot be enforced yet; {ports} stays denied here unless another rule allows it"
    )


def _proxied(specs: tuple[PortSpec, ...], rules: DocumentNode, kind: str) -> tuple[ProxiedPorts, str]:
    """What a proxy enforces on the ports, and what of it no proxy here can do (empty: nothing)."""
    if kind == DNS:
        return ProxiedPorts(specs, dns=dns_rules(rules)), ""
    http, missing = http_rules(rules)
    return ProxiedPorts(specs, http), missing


def _keep_servers(node: DocumentNode, servers: ServerNames, specs: list[PortSpec], found: Ports) -> None:
    """The TCP ports of a rule with server names; of others there is nobody to look for names."""
    with_names = tuple(spec for spec in specs if spec.protocol == TCP)
    found.proxied.append(ProxiedPorts(with_names, servers=servers))
    if others := [str(spec) for spec in specs if spec.protocol != TCP]:
        found.warnings.append(
            f"{node.path}.serverNames: names are looked for in TLS by TCP; {', '.join(others)} stays denied here"
        )


def _reason_of_fields(node: DocumentNode) -> str:
    if node.get("listener") is not None:
        return "a listener"
    if node.get("terminatingTLS") is not None or node.get("originatingTLS") is not None:
        return "TLS interception"
    return ""


def _reason_of_rules(l7: L7Rules | None, *, has_dns: bool) -> str:
    """Why a port with these rules is denied where no proxy enforces them; empty if it is not."""
    if l7 is None:
        return ""
    if has_dns:  # what allows every name means what its port says
        return "" if l7.allows_every_name else "a list of DNS names"
    return f"a list of {l7.kind} rules" if l7.size or l7.kind not in BUILT_IN_KINDS else ""


def _check_proxy_fields(node: DocumentNode, l7: L7Rules | None, *, is_ingress: bool) -> ServerNames:
    """The names in serverNames. Raises PolicyError."""
    names = node.texts_of("serverNames")
    if names and l7 is not None and node.get("terminatingTLS") is None:
        fix = "add terminatingTLS; write serverNames alone only if every request to these servers may pass"
        node.fail("serverNames with rules but without TLS termination", fix)
    if "" in names:
        node.fail("an empty server name", "write the name; a list without any means every server")
    for name in ("terminatingTLS", "originatingTLS"):
        tls = node.get(name)
        secret = tls.only(_TLS_FIELDS).get("secret") if tls is not None else None
        if secret is not None:
            secret.only(SECRET_FIELDS)
    listener = node.get("listener")
    if listener is not None:
        config = listener.only(_LISTENER_FIELDS).get("envoyConfig")
        if config is not None:
            config.only(_ENVOY_CONFIG_FIELDS)
    if listener is not None and is_ingress:
        listener.fail("a listener on ingress", "write rules that say what may come in; listeners work on egress only")
    if listener is not None and l7 is not None:
        fix = "write the one that says all that may pass: what the other asks for is not looked at then"
        listener.fail("a listener together with rules", fix)
    return frozenset(_server_name(node, index, text) for index, text in enumerate(names))


def _server_name(node: DocumentNode, index: int, text: str) -> ServerName:
    try:
        return server_name(text)
    except ValueError as exc:
        node.child(f"serverNames[{index}]", text).fail(
            str(exc), 'use letters, digits, "-", "_" and ".", with "*" for a part of a label, "**" for whole labels'
        )


def _check_l7(node: DocumentNode, l7: L7Rules, specs: list[PortSpec], *, has_dns: bool, is_host: bool) -> None:
    where = node.child("rules")
    if is_host and not has_dns:
        where.fail(f"{l7.kind} rules in a host policy", "name the ports alone if all that is behind them may be used")
    if l7.kind == DNS and not node.list_of("ports"):
        where.fail("DNS rules without a port", 'add port "53"')
    if any(not spec.name and spec.first == 0 for spec in specs):
        where.fail("rules on port 0", "name the ports that the rules are for")
    if not has_dns and any(spec.protocol != TCP for spec in specs):
        where.fail(f"{l7.kind} rules on a protocol other than TCP", "write protocol: TCP")


def _parse_port_list(node: DocumentNode, found: Ports, *, has_dns: bool = False) -> list[PortSpec]:
    ports = node.list_of("ports")
    if len(ports) > MAXIMUM_PORTS:
        node.child("ports").fail(f"{len(ports)} ports", f"write at most {MAXIMUM_PORTS} in one rule")
    specs: list[PortSpec] = []
    for port in ports:
        fields = port.only(_PORT_FIELDS).mapping()
        written = (fields.get("port"), fields.get("endPort"), fields.get("protocol"))
        is_short = all(type(value) is not str or len(value) <= _LONGEST_WORD for value in written)
        is_plain = not has_dns and is_short and all(isinstance(value, str | int | None) for value in written)
        known = _plain_port(*written, *map(type, written)) if is_plain else None
        specs.extend(_parse_port(port, found, has_dns=has_dns) if known is None else known)
    return specs


@lru_cache(maxsize=_REMEMBERED)
def _plain_port(port: object, end: object, protocol: object, *_types: type) -> tuple[PortSpec, ...] | None:
    """The specs of a number or range written as usual, which policies repeat a lot; None for whatever else there is.

    The types are part of what is remembered: True equals 1.
    """
    if not isinstance(port, str) or not _PLAIN_NUMBER.fullmatch(port):
        return None
    first = int(port)
    last = end if type(end) is int else first if end is None else -1
    if not first <= last <= MAXIMUM_PORT or not (protocol is None or isinstance(protocol, str)):
        return None
    try:
        protocols = parse_protocol(protocol or "")
    except ValueError:
        return None
    if not set(protocols) <= set(PORT_PROTOCOLS):
        return None
    return tuple(PortSpec(number, first, last) for number in protocols)


def _parse_port(node: DocumentNode, found: Ports, *, has_dns: bool) -> list[PortSpec]:
    text, end = node.text_of("port"), _parse_end_port(node)
    try:
        protocols = parse_protocol(node.text_of("protocol"))
    except ValueError as exc:
        names = ", ".join(("TCP", "UDP", "SCTP", *PORTLESS_PROTOCOLS))
        fix = "write an icmps rule" if "ICMP" in str(exc).upper() else f"write {names} or ANY"
        node.child("protocol").fail(f"unknown protocol {exc}", fix)
    where = node.child("port", text)
    if not set(protocols) <= set(PORT_PROTOCOLS):
        if text not in ("", "0") or end:
            where.fail(f"{node.text_of('protocol')} has no ports", 'leave port out, or write "0"')
        return [PortSpec(protocol) for protocol in protocols]
    if not text:
        where.fail("the port is missing", 'write a number or a name in quotes; "0" is every port')
    if _SERVICE_NAME.fullmatch(text):
        if end:
            found.warnings.append(f"{node.path}.endPort: a named port has no range, endPort has no effect")
        return [PortSpec(protocol, name=text.lower()) for protocol in protocols]
    first = parse_port_number(where, text)
    if has_dns and end > first:
        node.child("endPort").fail("DNS rules on a port range", "name each port")
    if end and end < first:
        found.warnings.append(f"{node.path}.endPort: below the port, only port {first} is meant")
    return [PortSpec(protocol, first, max(first, end) if end else first) for protocol in protocols]


def _parse_end_port(node: DocumentNode) -> int:
    end = node.get("endPort")
    if end is None:
        return 0
    if not 0 <= end.number() <= MAXIMUM_PORT:
        end.fail(f"{end.number()} is not a port", f"write a number up to {MAXIMUM_PORT}")
    return end.number()


def parse_port_number(where: DocumentNode, text: str) -> int:
    """Read a port as the reference does: digits; with a leading zero they are octal."""
    digits = text.replace("_", "") if re.fullmatch(r"[0-9]+(_[0-9]+)*", text) else text
    base = 8 if len(digits) > 1 and digits.startswith("0") else 10
    is_number = len(digits) <= _LONGEST_WORD and re.fullmatch("[0-7]+" if base == 8 else "[0-9]+", digits)
    if not is_number or int(digits, base) > MAXIMUM_PORT:
        where.fail(f"{text!r} is neither a port number nor a port name", f"write a number up to {MAXIMUM_PORT}")
    return int(digits, base)


def _parse_icmp_rule(node: DocumentNode, found: Ports) -> list[PortSpec]:
    fields = node.only(_ICMP_RULE_FIELDS).list_of("fields")
    if len(fields) > MAXIMUM_ICMP_FIELDS:
        node.fail(f"{len(fields)} ICMP fields", f"write at most {MAXIMUM_ICMP_FIELDS} in one rule")
    return [_parse_icmp_field(field_node, found) for field_node in fields]


def _parse_icmp_field(node: DocumentNode, found: Ports) -> PortSpec:
    node.only(_ICMP_FIELDS)
    family = node.text_of("family") or "IPv4"
    if family not in FAMILIES:
        node.child("family").fail(f"unknown family {family!r}", "write IPv4 or IPv6")
    protocol, kind = FAMILIES[family], node.get("type")
    if kind is None:
        node.fail("the ICMP type is missing", "write a number up to 255 or a name such as EchoRequest")
    text = str(kind.value) if isinstance(kind.value, int) and not isinstance(kind.value, bool) else kind.text()
    number = TYPE_NAMES[protocol].get(text, int(text) if _ICMP_NUMBER.fullmatch(text) else -1)
    if not 0 <= number <= MAXIMUM_ICMP_TYPE:
        kind.fail(f"{text!r} is not an ICMP type of {family}", "write a number up to 255 or a name such as EchoRequest")
    if number == 0:
        found.warnings.append(f"{node.path}.type: type 0 stands for every ICMP type of {family}, as on Cilium")
    return PortSpec(protocol, number, number)
