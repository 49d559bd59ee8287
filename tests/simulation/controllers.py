# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes' own controllers and kubelets do to the objects: pods get nodes, addresses and interfaces, Services slices."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kube.resource import ENDPOINT_SLICES, NODES, PODS, SERVICES, KubeObject, object_key
from tests.simulation.kube_server import KubeServer
from tests.simulation.loop import SimulatedLoop

if TYPE_CHECKING:
    from tests.simulation.cluster import Node

LATE_S: Final = 0.5
SERVICE_LABEL: Final = "kubernetes.io/service-name"


class Controllers:
    """Level-triggered: after a change, everything is made right again, up to `LATE_S` seconds later."""

    def __init__(self, kube: KubeServer, nodes: Mapping[str, Node], loop: SimulatedLoop, rng: random.Random) -> None:
        self._kube, self._nodes, self._loop, self._rng = kube, nodes, loop, rng
        self._is_due = False

    # ---- pods, as the kubelet sees them

    def run_pod(self, manifest: KubeObject, node: str) -> None:
        """The pod runs on the node: it has an address and an interface. A pod that runs there keeps its address."""
        key, where = object_key(manifest), self._nodes[node]
        before = self._kube.store.get(PODS, key)
        if before is not None and before["spec"].get("nodeName") != node:
            self.end_pod(key)
            before = None
        if before is not None:
            address = before["status"]["podIP"]
        else:
            where.last_host += 1
            address = where.pod_cidr.replace("0/24", str(2 + where.last_host % 250))
            where.machine.plug(address)
        ready = str(manifest.get("status", {}).get("ready", True))
        status: KubeObject = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": where.ip,
            "conditions": [{"type": "Ready", "status": ready}],
        }
        spec = {"nodeName": node, "containers": [{"name": "main", "ports": []}], **manifest.get("spec", {})}
        self._kube.apply(PODS, {**manifest, "spec": spec, "status": status})
        self.settle_soon()

    def end_pod(self, key: str) -> None:
        """The pod and its interface are gone."""
        before = self._kube.store.get(PODS, key)
        if before is None:
            return
        self._kube.delete(PODS, key)
        node = self._nodes.get(before["spec"].get("nodeName", ""))
        if node is not None:
            node.machine.unplug(before["status"]["podIP"])
        self.settle_soon()

    # ---- nodes, as the kubelet sees them

    def put_node(self, manifest: KubeObject) -> None:
        """The object is this, with the address that the node has now in the place of the one that it was installed with."""
        where = self._nodes.get(manifest["metadata"]["name"])
        status = dict(manifest.get("status") or {})
        if where is not None:
            status["addresses"] = [
                {**known, "address": where.ip} if known["address"] == where.first_ip else known
                for known in status.get("addresses") or []
            ]
        self._kube.apply(NODES, {**manifest, "status": status})

    def readdress(self, node: str, ip: str) -> None:
        """The node has another address, and says so of itself and of its pods."""
        where, known = self._nodes[node], self._kube.store.get(NODES, node)
        before, where.ip = where.ip, ip
        if known is not None:
            addresses = [
                {**each, "address": ip} if each["address"] == before else each for each in known["status"]["addresses"]
            ]
            self._kube.apply(NODES, {**known, "status": {**known["status"], "addresses": addresses}})
        for pod in self._kube.objects(PODS):
            if pod["spec"].get("nodeName") == node:
                self._kube.apply(PODS, {**pod, "status": {**pod["status"], "hostIP": ip}})

    # ---- slices

    def settle_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(self._rng.uniform(0.0, LATE_S), self.settle)

    def settle(self) -> None:
        """Each Service with a selector has one slice with the pods that it selects, and nothing else has one of ours."""
        self._is_due = False
        wanted: dict[str, KubeObject] = {}
        pods = self._kube.objects(PODS)
        for service in self._kube.objects(SERVICES):
            selector = service["spec"].get("selector")
            if selector:
                piece = _slice(service, [pod for pod in pods if _selects(selector, service, pod)])
                wanted[object_key(piece)] = piece
        for key, found in list(self._kube.store.objects(ENDPOINT_SLICES).items()):
            is_ours = found["metadata"].get("labels", {}).get("endpointslice.kubernetes.io/managed-by") == MANAGER
            if is_ours and key not in wanted:
                self._kube.delete(ENDPOINT_SLICES, key)
        for piece in wanted.values():
            self._kube.apply(ENDPOINT_SLICES, piece)


MANAGER: Final = "endpointslice-controller.k8s.io"


def _selects(selector: Mapping[str, str], service: KubeObject, pod: KubeObject) -> bool:
    labels = pod["metadata"].get("labels") or {}
    same = pod["metadata"]["namespace"] == service["metadata"]["namespace"]
    return same and all(labels.get(k) == v for k, v in selector.items())


def _conditions(pod: KubeObject) -> dict[str, bool]:
    is_ready = pod["status"]["conditions"][0]["status"] == "True"
    return {"ready": is_ready, "serving": is_ready, "terminating": False}


def _slice(service: KubeObject, pods: list[KubeObject]) -> KubeObject:
    meta = service["metadata"]
    ports: list[dict[str, Any]] = []
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else 8080
        ports.append({"name": port.get("name", ""), "port": number, "protocol": port.get("protocol", "TCP")})
    endpoints = [
        {
            "addresses": [pod["status"]["podIP"]],
            "conditions": _conditions(pod),
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]},
        }
        for pod in sorted(pods, key=object_key)
    ]
    return {
        "metadata": {
            "name": f"{meta['name']}-x",
            "namespace": meta["namespace"],
            "labels": {SERVICE_LABEL: meta["name"], "endpointslice.kubernetes.io/managed-by": MANAGER},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": meta["name"], "uid": meta["uid"]}],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }
