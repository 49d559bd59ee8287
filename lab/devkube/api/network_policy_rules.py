# SPDX-License-Identifier: Apache-2.0
"""What makes a NetworkPolicy unacceptable. Pure.

Source: the answers of Kubernetes 1.36 to wrong objects.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from lab.devkube.api import field_rules as rule
from lab.devkube.api.error import Cause
from lab.devkube.api.objects import Obj, items_of, part


def check_network_policy(obj: Obj, _old: Obj | None) -> Iterator[Cause]:
    spec = part(obj, "spec")
    yield from _selector("spec.podSelector", part(spec, "podSelector"))
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        yield rule.bad_value("spec.policyTypes", types, "may not specify more than two policyTypes")
    for index, name in enumerate(types):
        yield from rule.one_of(f"spec.policyTypes[{index}]", name, ("Egress", "Ingress"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, found in enumerate(items_of(spec, direction)):
            here = f"spec.{direction}[{index}]"
            for place, port in enumerate(items_of(found, "ports")):
                yield from _port(f"{here}.ports[{place}]", port)
            for place, peer in enumerate(items_of(found, peers)):
                yield from _peer(f"{here}.{peers}[{place}]", peer)


def _port(here: str, port: Obj) -> Iterator[Cause]:
    if (protocol := port.get("protocol")) is not None:
        yield from rule.one_of(f"{here}.protocol", protocol, rule.PROTOCOLS)
    number, last = port.get("port"), port.get("endPort")
    if number is not None:
        yield from rule.number_or_name(f"{here}.port", number)
    if last is None:
        return
    if number is None:
        yield rule.bad_value(f"{here}.endPort", last, "may not be specified when `port` is not specified")
    elif isinstance(number, str):
        yield rule.bad_value(f"{here}.endPort", last, "may not be specified when `port` is non-numeric")
    else:
        yield from rule.port_number(f"{here}.endPort", last)
        if isinstance(last, int) and last < number:
            yield rule.bad_value(f"{here}.endPort", last, "must be greater than or equal to `port`")


def _peer(here: str, peer: Obj) -> Iterator[Cause]:
    given = [name for name in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(name) is not None]
    if not given:
        yield rule.required(here, "must specify a peer")
    for name in ("podSelector", "namespaceSelector"):
        yield from _selector(f"{here}.{name}", part(peer, name))
    if "ipBlock" in given:
        if len(given) > 1:
            yield rule.forbidden(here, "may not specify both ipBlock and another peer")
        yield from _block(f"{here}.ipBlock", part(peer, "ipBlock"))


def _block(here: str, block: Obj) -> Iterator[Cause]:
    cidr = block.get("cidr")
    if not cidr:
        yield rule.required(f"{here}.cidr")
        return
    wrong = list(rule.network(f"{here}.cidr", cidr))
    yield from wrong
    for index, value in enumerate(block.get("except") or []):
        field = f"{here}.except[{index}]"
        unreadable = list(rule.network(field, value))
        yield from unreadable
        if not wrong and not unreadable and not _is_within(str(value), str(cidr)):
            yield rule.bad_value(field, value, "must be a strict subset of `cidr`")


def _is_within(inner: str, outer: str) -> bool:
    small, large = (ipaddress.ip_network(text, strict=False) for text in (inner, outer))
    return small.version == large.version and small != large and small.subnet_of(large)  # type: ignore[arg-type]


def _selector(here: str, selector: Obj) -> Iterator[Cause]:
    for key, value in part(selector, "matchLabels").items():
        yield from rule.label_value(f"{here}.matchLabels[{key}]", value)
    for index, wanted in enumerate(items_of(selector, "matchExpressions")):
        field, operator, values = f"{here}.matchExpressions[{index}]", wanted.get("operator"), wanted.get("values")
        if operator in ("In", "NotIn"):
            if not values:
                yield rule.required(f"{field}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                yield rule.forbidden(f"{field}.values", why)
        else:
            yield rule.bad_value(f"{field}.operator", operator, "not a valid selector operator")
