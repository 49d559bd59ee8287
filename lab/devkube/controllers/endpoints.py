# SPDX-License-Identifier: Apache-2.0
"""Service → EndpointSlices (and Endpoints, which old `kubectl describe` asks for)."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, is_deleting, items_of, labels_of, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import ensure, is_true, owner_reference, short_hash

GROUP: Final = "discovery.k8s.io"
SERVICE_NAME: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
CONTROLLER: Final = "endpointslice-controller.k8s.io"
HEADLESS: Final = "service.kubernetes.io/headless"
PER_SLICE: Final = 100

Ports = tuple[tuple[str, int, str], ...]
"""Name, number and protocol of each port as one group of pods has them."""


class Endpoints:
    """Publishes which pods stand behind each Service with a selector; those that end stay, marked so."""

    name = "endpoints"
    watches = frozenset({("", "services"), ("", "pods"), (GROUP, "endpointslices"), ("", "endpoints")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def reconcile(self) -> None:
        pods: dict[str, list[Obj]] = {}
        for pod in self._cluster.store.objects(("", "pods")).values():
            if part(pod, "status").get("podIP") and part(pod, "status").get("phase") in ("Pending", "Running"):
                pods.setdefault(namespace_of(pod), []).append(pod)
        for service in self._cluster.list("services"):
            selector = part(service["spec"], "selector")
            if selector and not is_deleting(service):
                chosen = [p for p in pods.get(namespace_of(service), []) if selector.items() <= labels_of(p).items()]
                self._publish(service, sorted(chosen, key=name_of))

    def _publish(self, service: Obj, pods: list[Obj]) -> None:
        groups: dict[Ports, list[Obj]] = {}
        for pod in pods:
            groups.setdefault(_ports(service, pod), []).append(pod)
        self._publish_slices(service, groups)
        subsets = [subset for ports, group in sorted(groups.items()) if (subset := _subset(service, ports, group))]
        meta = _meta(service, name_of(service), labels_of(service))
        ensure(self._cluster, "endpoints", {"metadata": meta, "subsets": subsets})

    def _publish_slices(self, service: Obj, groups: dict[Ports, list[Obj]]) -> None:
        labels = {**labels_of(service), SERVICE_NAME: name_of(service), MANAGED_BY: CONTROLLER}
        if service["spec"].get("clusterIP") == "None":
            labels[HEADLESS] = ""
        chunks = [
            (ports, group[start : start + PER_SLICE])
            for ports, group in sorted(groups.items())
            for start in range(0, len(group), PER_SLICE)
        ]
        wanted: set[str] = set()
        for index, (ports, chunk) in enumerate(chunks or [((), [])]):
            name = f"{name_of(service)}-{short_hash([uid_of(service), index], 5)}"
            wanted.add(name)
            body = {
                "addressType": "IPv4",
                "ports": [{"name": n, "port": number, "protocol": protocol} for n, number, protocol in ports],
                "endpoints": [_endpoint(service, pod) for pod in chunk],
            }
            ensure(self._cluster, "endpointslices", {"metadata": _meta(service, name, labels), **body}, GROUP)
        selector = f"{SERVICE_NAME}={name_of(service)},{MANAGED_BY}={CONTROLLER}"
        for found in self._cluster.list("endpointslices", GROUP, namespace_of(service), selector):
            if name_of(found) not in wanted:
                self._cluster.delete("endpointslices", name_of(found), namespace_of(found), GROUP)


def _meta(service: Obj, name: str, labels: dict[str, str]) -> Obj:
    meta: Obj = {"name": name, "namespace": namespace_of(service), "ownerReferences": [owner_reference(service)]}
    return meta | ({"labels": dict(labels)} if labels else {})


def _ports(service: Obj, pod: Obj) -> Ports:
    """The Service's ports as numbers in this pod; a port name the pod does not have is left out."""
    found = []
    for port in items_of(service["spec"], "ports"):
        protocol = port.get("protocol", "TCP")
        number = _number(port.get("targetPort") or port["port"], protocol, pod)
        if number:
            found.append((port.get("name") or "", number, protocol))
    return tuple(sorted(found))


def _number(target: int | str, protocol: str, pod: Obj) -> int:
    if isinstance(target, int) or target.isdecimal():
        return int(target)
    for container in items_of(pod["spec"], "containers"):
        for port in items_of(container, "ports"):
            if port.get("name") == target and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return 0


def _endpoint(service: Obj, pod: Obj) -> Obj:
    serving, ending = is_true(pod, "Ready"), is_deleting(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not ending)
    target = {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": ending},
        "nodeName": pod["spec"].get("nodeName"),
        "targetRef": target,
    }


def _subset(service: Obj, ports: Ports, pods: list[Obj]) -> Obj:
    entries = [(_endpoint(service, pod), pod) for pod in pods if not is_deleting(pod)]
    subset: Obj = {}
    for field, wanted in (("addresses", True), ("notReadyAddresses", False)):
        chosen = [entry for entry, _ in entries if entry["conditions"]["ready"] is wanted]
        if chosen:
            subset[field] = [
                {"ip": e["addresses"][0], "nodeName": e["nodeName"], "targetRef": e["targetRef"]} for e in chosen
            ]
    if subset:
        subset["ports"] = [
            {"port": number, "protocol": protocol} | ({"name": name} if name else {})
            for name, number, protocol in ports
        ]
    return subset
