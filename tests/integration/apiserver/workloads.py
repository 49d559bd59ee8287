# SPDX-License-Identifier: Apache-2.0
"""What controllers and kubelets would have written: nodes, namespaces, pods with addresses, services with slices."""

from __future__ import annotations

from typing import Any

from lab.devkube.api.cluster import Cluster


class Workloads:
    """Writes straight into the embedded cluster; every write is an ordinary watch event for the program under test."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def node(self, name: str, ip: str, cidr: str) -> None:
        self.cluster.create(
            "nodes",
            {
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            },
        )
        node = self.cluster.get("nodes", name)
        assert node is not None
        node["status"] = {
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"bootID": "boot-1"},
        }
        self.cluster.update("nodes", node, subresource="status")

    def namespace(self, name: str, **annotations: str) -> None:
        self.cluster.create("namespaces", {"metadata": {"name": name, "annotations": annotations}})

    def annotate(self, plural: str, name: str, namespace: str = "", **annotations: str | None) -> None:
        obj = self.cluster.get(plural, name, namespace)
        assert obj is not None
        known = obj["metadata"].setdefault("annotations", {})
        for key, value in annotations.items():
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value
        self.cluster.update(plural, obj)

    def service(
        self, name: str, namespace: str = "shop", *, annotations: dict[str, str] | None = None, **spec: Any
    ) -> None:
        base = {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        }
        meta = {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": annotations or {}}
        self.cluster.create("services", {"metadata": meta, "spec": {**base, **spec}})

    def slice(self, service: str, *addresses: str, namespace: str = "shop", port: int = 8080) -> None:
        obj = {
            "metadata": {
                "name": f"{service}-1",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in addresses],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }
        group = "discovery.k8s.io"
        if self.cluster.get("endpointslices", f"{service}-1", namespace, group) is None:
            self.cluster.create("endpointslices", obj, group)
        else:
            self.cluster.update("endpointslices", obj, group)

    def pod(self, name: str, ip: str, namespace: str = "shop", *, host_ip: str = "172.18.0.3", **labels: str) -> None:
        meta = {"name": name, "namespace": namespace, "labels": labels or {"app": name}}
        spec = {"containers": [{"name": "c", "image": "nginx"}], "nodeName": "koornacht-worker"}
        self.cluster.create("pods", {"metadata": meta, "spec": spec})
        pod = self.cluster.get("pods", name, namespace)
        assert pod is not None
        pod["status"] = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": host_ip}
        self.cluster.update("pods", pod, subresource="status")

    def relabel(self, name: str, namespace: str = "shop", **labels: str) -> None:
        pod = self.cluster.get("pods", name, namespace)
        assert pod is not None
        pod["metadata"]["labels"] = labels
        self.cluster.update("pods", pod)

    def remove(self, plural: str, name: str, namespace: str = "shop", group: str = "") -> None:
        self.cluster.remove(plural, name, namespace, group)
