# SPDX-License-Identifier: Apache-2.0
"""Service → row. Pure. Source: core/v1; Cilium's annotations."""

from __future__ import annotations

from typing import Any, Final

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import Port, ServiceIntent
from meshmodel.annotations import parse_service_annotations

HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
MAX_AFFINITY_S: Final = 86_400
TRAFFIC_POLICIES: Final = ("Cluster", "Local")
IP_MODES: Final = frozenset({"VIP", "Proxy"})


def read_service(obj: Obj) -> Read[ServiceIntent]:
    """The service; what its annotations say wrongly stands in `row.annotations.problems`. Raises: UnreadableError."""
    name = name_of(obj)
    problems: list[str] = []
    meta, spec = obj["metadata"], fields.mapping(obj, "spec", problems)
    labels = fields.pairs(meta, "labels", problems)
    label_names = {key for key, _ in labels}
    annotations = parse_service_annotations(dict(fields.pairs(meta, "annotations", problems)))
    cluster_ips = fields.entries(spec, "clusterIPs", problems) or [spec.get("clusterIP")]
    is_headless = any(isinstance(ip, str) and ip.lower() == "none" for ip in cluster_ips)
    row = ServiceIntent(
        namespace=name.namespace,
        name=name.name,
        uid=name.uid,
        annotations=annotations,
        cluster_ips=() if is_headless else fields.addresses(cluster_ips, "spec.clusterIPs", problems),
        ports=read_ports(spec, problems),
        labels=labels,
        selector=fields.pairs(spec, "selector", problems),
        headless=is_headless or HEADLESS_LABEL in label_names,
        external_name=fields.text(spec, "type", problems) == "ExternalName",
        other_proxy=PROXY_NAME_LABEL in label_names,
        session_affinity=fields.choice(spec, "sessionAffinity", ("None", "ClientIP"), "None", problems) or "None",
        affinity_timeout_s=_affinity_timeout(spec, problems),
        external_ips=fields.addresses(
            fields.entries(spec, "externalIPs", problems), "spec.externalIPs", problems, special=False
        ),
        balancer_ips=_balancer_ips(obj, problems),
        balancer_sources=_balancer_sources(spec, problems),
        is_internal_local=fields.choice(spec, "internalTrafficPolicy", TRAFFIC_POLICIES, "Cluster", problems)
        == "Local",
        is_external_local=fields.choice(spec, "externalTrafficPolicy", TRAFFIC_POLICIES, "Cluster", problems)
        == "Local",
        created=fields.text(meta, "creationTimestamp", problems),
    )
    return Read(row, bounded(problems), name.uid)


def _affinity_timeout(spec: Obj, problems: list[str]) -> int:
    """Seconds, 0 if the service does not say."""
    if spec.get("sessionAffinityConfig") is None:
        return 0
    client_ip = fields.mapping(fields.mapping(spec, "sessionAffinityConfig", problems), "clientIP", problems)
    return fields.number(client_ip, "timeoutSeconds", 1, MAX_AFFINITY_S, problems) or 0


def read_ports(obj: dict[str, Any], problems: list[str], *, may_be_all: bool = False) -> tuple[Port, ...]:
    """The ports of a service or, where a port may have no number and means all of them, of an endpoint slice."""
    found: list[Port] = []
    for entry in fields.objects(obj, "ports", problems):
        port = _plain_port(entry)
        if port is not None:
            found.append(port)
            continue
        name = fields.text(entry, "name", problems, "port name")
        protocol = fields.choice(entry, "protocol", fields.PROTOCOLS, "TCP", problems)
        number = fields.number(entry, "port", 1, 65535, problems)
        if protocol is None or (number is None and entry.get("port") is not None):
            continue  # the problem is noted
        if number is None and not may_be_all:
            problems.append(f"ports: {name or 'a port without name'} has no number")
            continue
        node_port = 0 if may_be_all else fields.number(entry, "nodePort", 0, 65535, problems) or 0
        found.append(Port(name, protocol, number, fields.text(entry, "appProtocol", problems), node_port))
    return tuple(found)


def _plain_port(entry: Obj) -> Port | None:
    """Nearly every port: a number, perhaps a name and a protocol, all as they should be. None: it must be looked at."""
    name, number, protocol = entry.get("name", ""), entry.get("port"), entry.get("protocol", "TCP")
    if type(name) is not str or type(number) is not int or type(protocol) is not str or "appProtocol" in entry:
        return None
    node_port = entry.get("nodePort", 0)
    if type(node_port) is not int or not 0 <= node_port <= 65535:
        return None
    is_plain = 1 <= number <= 65535 and protocol in fields.PROTOCOLS
    return Port(name, protocol, number, "", node_port) if is_plain else None


def _balancer_ips(obj: Obj, problems: list[str]) -> tuple[str, ...]:
    """The load balancer's addresses that a node translates: those of mode VIP, which is also what absence means."""
    if not obj.get("status"):
        return ()
    balancer = fields.mapping(fields.mapping(obj, "status", problems), "loadBalancer", problems)
    if not balancer:
        return ()
    entries = fields.objects(balancer, "ingress", problems)
    kept = [entry.get("ip") for entry in entries if fields.choice(entry, "ipMode", IP_MODES, "VIP", problems) == "VIP"]
    return fields.addresses(kept, "status.loadBalancer.ingress", problems)


def _balancer_sources(spec: Obj, problems: list[str]) -> tuple[str, ...]:
    """As written: what cannot be read restricts as well."""
    if spec.get("loadBalancerSourceRanges") is None:
        return ()
    found = fields.entries(spec, "loadBalancerSourceRanges", problems)
    is_list = isinstance(spec["loadBalancerSourceRanges"], list)
    return tuple(map(str, found)) if is_list else (fields.shown(spec["loadBalancerSourceRanges"]),)
