# SPDX-License-Identifier: Apache-2.0
"""What makes a Service or an EndpointSlice unacceptable. Pure.

Source: the answers of Kubernetes 1.36 to wrong objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lab.devkube.api import field_rules as rule
from lab.devkube.api.error import Cause
from lab.devkube.api.objects import Obj, items_of, part

TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
MAX_AFFINITY_S: Final = 86_400
MAX_ENDPOINTS: Final = 1_000
MAX_ADDRESSES: Final = 100
MAX_PORTS: Final = 20_000


def drop_outdated(obj: Obj, old: Obj | None) -> None:
    """Take out what the server filled in for another type of the Service, and whoever changes the type did not touch."""
    spec, before = part(obj, "spec"), part(old or {}, "spec")
    kind, known = spec.get("type"), before.get("type")
    if old is None or kind == known:
        return
    if kind in ("ClusterIP", "ExternalName"):
        held = {port.get("nodePort") for port in items_of(before, "ports")}
        for port in items_of(spec, "ports"):
            if port.get("nodePort") in held:
                port.pop("nodePort", None)
        if spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
            spec.pop("externalTrafficPolicy", None)
    if kind == "ExternalName" and spec.get("clusterIP") == before.get("clusterIP"):
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    if kind != "LoadBalancer":
        for field in ("healthCheckNodePort", "loadBalancerClass"):
            if spec.get(field) == before.get(field):
                spec.pop(field, None)


def check_service(obj: Obj, _old: Obj | None) -> Iterator[Cause]:
    spec = part(obj, "spec")
    kind = spec.get("type")
    yield from rule.one_of("spec.type", kind, TYPES)
    yield from _ports(spec)
    for key, value in part(spec, "selector").items():
        yield from rule.label_value(f"spec.selector[{key}]", value)
    for index, address in enumerate(spec.get("externalIPs") or []):
        yield from rule.target_address(f"spec.externalIPs[{index}]", address, ("IPv4", "IPv6"))
    yield from _affinity(spec)
    yield from _policies(spec)
    yield from _external_name(spec) if kind == "ExternalName" else _cluster_ip(spec)
    yield from _balancer(spec)


def _ports(spec: Obj) -> Iterator[Cause]:
    kind, ports = spec.get("type"), items_of(spec, "ports")
    if not ports and kind != "ExternalName" and spec.get("clusterIP") != "None":
        yield rule.required("spec.ports")
    names: set[object] = set()
    numbers: set[object] = set()
    node_ports: set[object] = set()
    for index, port in enumerate(ports):
        here, name, protocol = f"spec.ports[{index}]", port.get("name"), port.get("protocol")
        yield from rule.port_number(f"{here}.port", port.get("port"))
        if not name and len(ports) > 1:
            yield rule.required(f"{here}.name")
        elif name:
            yield from rule.label_name(f"{here}.name", name)
            if name in names:
                yield rule.duplicate(f"{here}.name", name)
        yield from rule.one_of(f"{here}.protocol", protocol, rule.PROTOCOLS)
        if (target := port.get("targetPort")) not in (None, "", 0):
            yield from rule.number_or_name(f"{here}.targetPort", target)
        if (number := (port.get("port"), protocol)) in numbers:
            yield rule.duplicate(here, f"{port.get('port')}/{protocol}")
        node_port = port.get("nodePort")
        if node_port and kind in ("ClusterIP", "ExternalName"):
            yield rule.forbidden(f"{here}.nodePort", f"may not be used when `type` is '{kind}'")
        elif node_port and (node_port, protocol) in node_ports:
            yield rule.duplicate(f"{here}.nodePort", node_port)
        names.add(name)
        numbers.add(number)
        node_ports.add((node_port, protocol))


def _affinity(spec: Obj) -> Iterator[Cause]:
    yield from rule.one_of("spec.sessionAffinity", spec.get("sessionAffinity", "None"), ("ClientIP", "None"))
    config = spec.get("sessionAffinityConfig")
    if spec.get("sessionAffinity") != "ClientIP":
        if config is not None:
            yield rule.forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None")
        return
    seconds = part(part(spec, "sessionAffinityConfig"), "clientIP").get("timeoutSeconds")
    if seconds is not None and not (isinstance(seconds, int) and 0 < seconds <= MAX_AFFINITY_S):
        why = f"must be greater than 0 and less than {MAX_AFFINITY_S}"
        yield rule.bad_value("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why)


def _policies(spec: Obj) -> Iterator[Cause]:
    external, kind = spec.get("externalTrafficPolicy"), spec.get("type")
    is_external = kind in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))
    if external and not is_external:
        why = "may only be set for externally-accessible services"
        yield rule.bad_value("spec.externalTrafficPolicy", external, why)
    elif external:
        yield from rule.one_of("spec.externalTrafficPolicy", external, ("Cluster", "Local"))
    if (internal := spec.get("internalTrafficPolicy")) is not None:
        yield from rule.one_of("spec.internalTrafficPolicy", internal, ("Cluster", "Local"))
    if (wanted := spec.get("trafficDistribution")) is not None:
        known = ("PreferClose", "PreferSameNode", "PreferSameZone")
        yield from rule.one_of("spec.trafficDistribution", wanted, known)
    if spec.get("healthCheckNodePort") and not (kind == "LoadBalancer" and external == "Local"):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield rule.bad_value("spec.healthCheckNodePort", spec["healthCheckNodePort"], why)


def _external_name(spec: Obj) -> Iterator[Cause]:
    if spec.get("clusterIP"):
        yield rule.forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    name = str(spec.get("externalName") or "").removesuffix(".")
    if not name:
        yield rule.required("spec.externalName")
    elif len(name) > 253 or not rule.SUBDOMAIN.fullmatch(name):
        why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        yield rule.bad_value("spec.externalName", name, why)


def _cluster_ip(spec: Obj) -> Iterator[Cause]:
    kind, address = spec.get("type"), spec.get("clusterIP")
    if address == "None" and kind in ("NodePort", "LoadBalancer"):
        yield rule.bad_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")


def _balancer(spec: Obj) -> Iterator[Cause]:
    if spec.get("type") != "LoadBalancer":
        for field in ("loadBalancerSourceRanges", "loadBalancerClass"):
            if spec.get(field):
                yield rule.forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")
        return
    for index, value in enumerate(spec.get("loadBalancerSourceRanges") or []):
        yield from rule.network(f"spec.loadBalancerSourceRanges[{index}]", str(value).strip())


def check_endpoint_slice(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    kind = obj.get("addressType")
    if not kind:
        yield rule.required("addressType")
    else:
        yield from rule.one_of("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    if old is not None and old.get("addressType") != kind:
        yield rule.bad_value("addressType", kind, "field is immutable")
    endpoints, ports = items_of(obj, "endpoints"), items_of(obj, "ports")
    for field, found, most in (("endpoints", endpoints, MAX_ENDPOINTS), ("ports", ports, MAX_PORTS)):
        if len(found) > most:
            yield Cause(field, "FieldValueTooMany", f"Too many: {len(found)}: must have at most {most} items")
    for index, endpoint in enumerate(endpoints):
        yield from _endpoint(f"endpoints[{index}]", endpoint, str(kind))
    names: set[object] = set()
    for index, port in enumerate(ports):
        here, name = f"ports[{index}]", port.get("name") or ""
        if name:
            yield from rule.label_name(f"{here}.name", name)
        if name in names:
            yield rule.duplicate(f"{here}.name", name)
        names.add(name)
        yield from rule.one_of(f"{here}.protocol", port.get("protocol", "TCP"), rule.PROTOCOLS)
        if port.get("port") is not None:
            yield from rule.port_number(f"{here}.port", port["port"])


def _endpoint(here: str, endpoint: Obj, kind: str) -> Iterator[Cause]:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield rule.required(f"{here}.addresses", "must contain at least 1 address")
    if len(addresses) > MAX_ADDRESSES:
        why = f"Too many: {len(addresses)}: must have at most {MAX_ADDRESSES} items"
        yield Cause(f"{here}.addresses", "FieldValueTooMany", why)
    for place, address in enumerate(addresses):
        if kind in ("IPv4", "IPv6"):
            yield from rule.target_address(f"{here}.addresses[{place}]", address, (kind,))
        elif kind == "FQDN" and not rule.SUBDOMAIN.fullmatch(str(address)):
            yield rule.bad_value(f"{here}.addresses[{place}]", address, "must be a fully qualified domain name")
    if hostname := endpoint.get("hostname"):
        yield from rule.label_name(f"{here}.hostname", hostname)
    if (zone := endpoint.get("zone")) is not None:
        yield from rule.label_value(f"{here}.zone", zone)
