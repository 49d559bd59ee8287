# SPDX-License-Identifier: Apache-2.0
"""Verdicts without a cluster: what `clustermesh policy eval` computes.

Shape: a case is {"cluster": name, "scope": "" or the cluster that unscoped selectors mean, "ids": {name: ["source:key=
value", ...]}, "ips": {name: address of an external peer}, "fqdns": {DNS name: [address, ...]} (what pods were
told, so that `toFQDNs` mean these addresses), "namedPorts": {name: {"http": [80, "TCP"]}} (absent: every pod
names http = 80/TCP), "policies": [YAML], "flows": [[from, to, protocol, port], or with an HTTP
request such as "GET /path", a DNS name, or "tls://" and a server's name behind it, ...]}; a verdict is one word per side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from meshkit.errors import PermanentError
from meshmodel.errors import ModelError
from meshmodel.identity import NumericIdentity, Reserved
from meshmodel.labels import NAMESPACE_LABEL, Label, Labels, parse_label, sort_labels
from meshpolicy.asked import Asked, lets_through, parse_asked, parse_name
from meshpolicy.context import PolicyContext
from meshpolicy.dns_name import is_of_service
from meshpolicy.documents import Document, load_documents
from meshpolicy.endpoint_policy import EndpointPolicy
from meshpolicy.engine import Engine
from meshpolicy.entity import WORLDS
from meshpolicy.errors import PolicyError
from meshpolicy.host_guard import GuardFacts, guard_policy
from meshpolicy.icmp import TYPE_NAMES
from meshpolicy.mapstate import Verdict
from meshpolicy.node_peer import completed_labels
from meshpolicy.port import MAXIMUM_PORT, PROTOCOL_NUMBERS, TCP, NamedPorts
from meshpolicy.prefix import Cidr, label_key, parse_address
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.range_shares import LIMITS, ShareLimits, without_room
from meshpolicy.rebuild import closed
from meshpolicy.reference import Direction
from meshpolicy.reserved_labels import RESERVED_LABELS
from meshpolicy.rule import CidrGroup, Policy
from meshpolicy.selector import CIDR_SOURCE, FQDN_SOURCE, RESERVED_SOURCE

ALLOWED: Final = "allowed"
DENIED: Final = "denied"
_DEFAULT_PORTS: Final[NamedPorts] = {"http": (80, TCP)}
_FIRST_NUMBER: Final = 256
_RESERVED_NUMBERS: Final = {labels: number for number, labels in RESERVED_LABELS.items()}
_FLOW_FIELDS: Final = 4
_REQUEST_FIELDS: Final = 5
_REMEMBERED: Final = 1024
_LONGEST: Final = 256
_CASE_FIELDS: Final = ("cluster", "scope", "ids", "ips", "fqdns", "namedPorts", "policies", "flows")
_ALIKE: Final = 0.7
_SHORT: Final = 4
"""Names below this length are alike by chance: a case may well have an id."""


class CaseError(PermanentError, ValueError):
    """The case itself, not a policy in it, cannot be read. Of a long message the beginning is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1]}…")


def evaluate(cases: object, limits: ShareLimits = LIMITS) -> object:
    """The answer to one case, or the list of answers to a list. Raises CaseError for a malformed case."""
    if isinstance(cases, Mapping):
        return evaluate_case(cases, limits)
    return [evaluate_case(_mapping(case, "a case"), limits) for case in _sequence(cases, "the file")]


def evaluate_case(case: Mapping[str, object], limits: ShareLimits = LIMITS) -> Mapping[str, object]:
    """{"errors": [text per policy that is invalid or kept closed], "verdicts": [[egress, ingress] per flow]}.

    Where a valid policy has parts that nobody can enforce yet, "notEnforced" has a text for each; verdicts are what they come to.

    Fields of other names are the author's own, but not misspelt ones: without its policies a case has everything allowed.
    """
    for name in map(str, case.keys() - set(_CASE_FIELDS)):
        meant = [known for known in _CASE_FIELDS if known.lower() == name.lower()]
        if len(name) >= _SHORT:
            meant += get_close_matches(name[:64], _CASE_FIELDS, 1, _ALIKE)
        for known in meant:
            raise CaseError(f"unknown field {name[:64]!r} of a case: write {known}")
    world = _CaseWorld(case)
    policies = _sequence(case.get("policies", []), "policies")
    for index, item in enumerate(policies):
        if not isinstance(item, str | Mapping):
            raise CaseError(f"policies[{index}] is no document: write a map, or YAML as a string")
    errors = world.load([item for item in policies if isinstance(item, str | Mapping)], limits)
    flows = _sequence(case.get("flows", []), "flows")
    answer = {"errors": errors, "verdicts": [world.judge(_sequence(flow, "a flow")) for flow in flows]}
    return {**answer, "notEnforced": world.not_enforced} if world.not_enforced else answer


class _CaseWorld:
    """The identities of a case by name, and the engine that knows them."""

    def __init__(self, case: Mapping[str, object]) -> None:
        cluster = case.get("cluster") or "default"
        scope = case.get("scope") or ""
        if not isinstance(cluster, str) or not isinstance(scope, str):
            raise CaseError("cluster and scope must be strings")
        labels = {name: _labels(texts, name) for name, texts in _mapping(case.get("ids", {}), "ids").items()}
        self._addresses = {name: _address(text, name) for name, text in _mapping(case.get("ips", {}), "ips").items()}
        self._told = _told(_mapping(case.get("fqdns", {}), "fqdns"))
        self._name_labels: dict[Cidr, Labels] = {}
        ports = case.get("namedPorts")
        self._ports = (
            None
            if ports is None
            else {name: _named_ports(entry, name) for name, entry in _mapping(ports, "namedPorts").items()}
        )
        families = {label.key for known in labels.values() for label in known if label.source == RESERVED_SOURCE}
        self._proxy_ports = ProxyPorts()
        self._context = PolicyContext(
            scope or cluster,
            bool(scope),
            dual_stack=bool(families & {"world-ipv4", "world-ipv6"}),
            proxy_ports=self._proxy_ports,
        )
        self._engine = Engine(self._context)
        self._numbers: dict[str, NumericIdentity] = {}
        self._policies: dict[str, EndpointPolicy] = {}
        self.not_enforced: list[str] = []
        """Parts of valid policies that nobody can enforce yet."""
        for name, known in labels.items():
            self._add(name, known)

    def load(self, documents: Iterable[Document], limits: ShareLimits) -> list[str]:
        """Put the valid policies in force; returns a text for each invalid one, and for each that is kept closed."""
        errors, is_about_hosts, valid = list[str](), False, list[Policy | CidrGroup]()
        for index, item in enumerate(load_documents(documents, self._context)):
            if isinstance(item, PolicyError):
                errors.append(str(item))
            else:
                valid.append(item if isinstance(item, CidrGroup) else _made_unique(item, index))
        full = without_room(valid, limits)
        for item in valid:
            if isinstance(item, CidrGroup):
                self._engine.set_cidr_group(item)
            else:
                self._engine.set_policy(closed(item) if item.key in full else item)
                is_about_hosts |= item.is_host
                self.not_enforced += [f"{item.key}: {text}" for text in item.problems]
        errors.extend(f"{key} is {why}" for key, why in full.items())
        if is_about_hosts:
            self._engine.set_policy(guard_policy(GuardFacts()))
        self._look_up_nodes()
        self._look_up_names()
        return errors

    def judge(self, flow: Sequence[object]) -> list[str]:
        """Both sides of one flow."""
        if len(flow) not in (_FLOW_FIELDS, _REQUEST_FIELDS):
            raise CaseError(f"flow {flow!r}: write [from, to, protocol, port]")
        asked = _asked(flow[_FLOW_FIELDS]) if len(flow) == _REQUEST_FIELDS else None
        source, destination = str(flow[0]), str(flow[1])
        protocol = _protocol(flow[2])
        port = _port(flow[3], protocol)
        sender, receiver = self._number(source), self._number(destination)
        egress = self._policy(source, sender).verdict(Direction.EGRESS, int(receiver), protocol, port)
        ingress = self._policy(destination, receiver).verdict(Direction.INGRESS, int(sender), protocol, port)
        return [ALLOWED if self._allows(verdict, asked) else DENIED for verdict in (egress, ingress)]

    def _allows(self, verdict: Verdict, asked: Asked | None) -> bool:
        """Whether the connection is possible, and what is asked over it."""
        if asked is None or not verdict.allowed or verdict.entry is None or not verdict.entry.proxy_port:
            return verdict.allowed
        return lets_through(self._proxy_ports.listener(verdict.entry.proxy_port), asked)

    def _look_up_nodes(self) -> None:
        """Identities with labels of nodes have those that the policies ask for, and no others."""
        keys = self._engine.node_keys()
        for number, labels in self._engine.identities().items():
            self._engine.set_identity(number, completed_labels(labels, self._context.cluster, keys))

    def _look_up_names(self) -> None:
        """Addresses have the labels of the names, and of the patterns, that policies mean them by."""
        for address, names in self._told.items():
            meant = {s.label_key for s in self._engine.name_selectors() for name in names if s.rule.matches(name)}
            if meant:
                self._name_labels[address] = tuple(Label(FQDN_SOURCE, key, "") for key in sorted(meant))
        for name, number in self._numbers.items():
            of_name, known = self._addresses.get(name), self._engine.labels_of(number)
            if of_name in self._name_labels and known is not None and _is_outside(known):
                self._engine.set_identity(number, sort_labels((*known, *self._name_labels[of_name])))

    def _policy(self, name: str, number: NumericIdentity) -> EndpointPolicy:
        policy = self._policies.get(name)
        if policy is None:
            policy = self._policies[name] = self._engine.endpoint_policy(number, self._ports_of(name))
        return policy

    def _ports_of(self, name: str) -> NamedPorts:
        return _DEFAULT_PORTS if self._ports is None else self._ports.get(name, {})

    def _number(self, name: str) -> NumericIdentity:
        """The identity of a name; one that the case does not list is a reserved name or an address outside."""
        known = self._numbers.get(name)
        if known is not None:
            return known
        if name not in self._addresses:
            word = name.removeprefix("reserved:").upper().replace("-", "_")
            if word in Reserved.__members__:
                self._numbers[name] = NumericIdentity(Reserved[word])
                return self._numbers[name]
            try:
                self._addresses[name] = parse_address(name)
            except ValueError:
                raise CaseError(f"{name!r} is neither in ids nor in ips") from None
        return self._add(name, ())

    def _add(self, name: str, labels: Labels) -> NumericIdentity:
        address = self._addresses.get(name)
        if address is not None and _is_outside(labels):
            labels = self._outside_labels(labels, address)
        number = self._known_number(labels)
        if number is None:
            number = NumericIdentity(_FIRST_NUMBER + len(self._numbers))
        self._engine.set_identity(number, labels)
        if any(label.key == NAMESPACE_LABEL for label in labels):
            self._engine.set_pod_ports(name, number, self._ports_of(name))
        self._numbers[name] = number
        self._policies.clear()
        return number

    def _known_number(self, labels: Labels) -> NumericIdentity | None:
        """The reserved number that labels stand for: the host, whatever else it is, or exactly one of the others."""
        if any(label.source == RESERVED_SOURCE and label.key == "host" for label in labels):
            return NumericIdentity(Reserved.HOST)
        return _RESERVED_NUMBERS.get(labels)

    def _outside_labels(self, labels: Labels, address: Cidr) -> Labels:
        is_one_world = address.version == 4 and not self._context.dual_stack
        world = "world" if is_one_world else f"world-ipv{address.version}"
        has_world = any(label.source == RESERVED_SOURCE and label.key in WORLDS for label in labels)
        extra = () if has_world else (Label(RESERVED_SOURCE, world, ""),)
        of_names = self._name_labels.get(address, ())
        return sort_labels((*labels, *extra, *of_names, Label(CIDR_SOURCE, label_key(address), "")))


def _is_outside(labels: Labels) -> bool:
    return not labels or any(label.source == RESERVED_SOURCE and label.key in WORLDS for label in labels)


def _made_unique(policy: Policy, index: int) -> Policy:
    """Every document of a case counts, also two of the same name."""
    return replace(policy, key=policy.key._replace(name=f"{policy.key.name}#{index}"))


def _labels(texts: object, name: str) -> Labels:
    try:
        return _parse_labels(tuple(str(text) for text in _sequence(texts, f"ids.{name}")))
    except ModelError as exc:
        raise CaseError(f"ids.{name}: {exc}") from exc


@lru_cache(maxsize=_REMEMBERED)
def _parse_labels(texts: tuple[str, ...]) -> Labels:
    return sort_labels(parse_label(text) for text in texts)


def _address(text: object, name: str, field: str = "ips") -> Cidr:
    try:
        return parse_address(str(text).partition("/")[0])
    except ValueError as exc:
        raise CaseError(f"{field}.{name}: {exc}") from exc


def _told(names: Mapping[str, object]) -> dict[Cidr, set[str]]:
    """The names of each address. Names of Services are not of hosts outside."""
    found: dict[Cidr, set[str]] = {}
    for text, addresses in names.items():
        try:
            name = parse_name(str(text)).name
        except ValueError as exc:
            raise CaseError(f"fqdns: {exc}") from exc
        for address in _sequence(addresses, f"fqdns.{text}"):
            of_address = found.setdefault(_address(address, str(text), "fqdns"), set())
            of_address.update(() if is_of_service(name) else (name,))
    return found


def _named_ports(entry: object, name: str) -> NamedPorts:
    ports = {}
    for port_name, value in _mapping(entry, f"namedPorts.{name}").items():
        pair = _sequence(value, f"namedPorts.{name}.{port_name}")
        protocol = _protocol(pair[1]) if len(pair) > 1 else 0
        ports[port_name.lower()] = (_port(pair[0] if pair else 0, protocol), protocol)
    return ports


def _asked(value: object) -> Asked:
    try:
        return parse_asked(str(value))
    except ValueError as exc:
        raise CaseError(str(exc)) from exc


def _protocol(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = PROTOCOL_NUMBERS.get(str(value).upper())
    if number is None:
        raise CaseError(f"unknown protocol {value!r}: write {', '.join(PROTOCOL_NUMBERS)} or a number")
    return number


def _port(value: object, protocol: int) -> int:
    if isinstance(value, str):
        value = TYPE_NAMES.get(protocol, {}).get(value, int(value) if value.isdecimal() else -1)
    if not isinstance(value, int) or not 0 <= value <= MAXIMUM_PORT:
        raise CaseError(f"{value!r} is not a port")
    return value


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise CaseError(f"{what} must be an object")
    return value


def _sequence(value: object, what: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise CaseError(f"{what} must be a list")
    return value
